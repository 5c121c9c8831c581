"""Pictures in, drawn pictures and one COCO JSON out."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from kd2.data.images import ENDINGS
from kd2.deploy.formats import first_line
from kd2.deploy.predictor import Found, Predicts, pixels_of
from kd2.distill import ConfigError, DataError
from kd2.report.data_pictures import color_of
from kd2.runs.files import write_atomically
from kd2.runs.folder import check_writable

RESULTS = "predictions.json"
_SMALL = 250  # pixels of the longer side
_LONGEST = 240  # bytes of a name before its number and ending


def pictures_of(paths: Iterable[str]) -> list[str]:
    """The pictures among files and folders, each once; those of a folder by their endings and sorted.

    Raises:
        ConfigError: a path that does not exist, a folder without a picture.
    """
    found: dict[str, str] = {}
    for path in paths:
        if not os.path.exists(path):
            raise ConfigError(f"{path} does not exist, expected a picture or a folder of pictures")
        inside = [path]
        if os.path.isdir(path):
            inside = [os.path.join(path, x) for x in sorted(os.listdir(path)) if x.lower().endswith(ENDINGS)]
        if not inside:
            raise ConfigError(f"{path} has no picture; known by {', '.join(ENDINGS)}")
        for picture in inside:
            found.setdefault(os.path.realpath(picture), picture)
    return list(found.values())


def check_output(folder: str, pictures: Sequence[str]) -> None:
    """Create the folder of the results; raises ConfigError when one of their names is taken or nothing can be written.

    Args:
        pictures: those that will be drawn there.
    """
    for name in [RESULTS, *_names(pictures)]:
        if os.path.lexists(os.path.join(folder, name)):
            raise ConfigError(
                f"--output {folder!r} has {name} already, which is kept; give an empty folder or a new one"
            )
    check_writable(folder, "--output")


def predict(model: Predicts, pictures: Sequence[str], folder: str, least: float) -> Iterator[tuple[str, int, str]]:
    """Write each picture with what is found on it to a folder, and everything that is found to ``predictions.json``.

    That file is a COCO JSON as it annotates a data set, with a ``score`` more: boxes and masks of objects, one mask a
    class of a segmentation, one class of a picture. Its category ids start at 1.

    Args:
        least: score from which on a detection is drawn; the JSON has all.

    Yields:
        A picture, how many annotations it has, and what was wrong with it; a broken picture is left out.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for path, name in zip(pictures, _names(pictures)):
        try:
            pixels, found = _found(model, path)
        except (DataError, OSError) as error:
            yield path, 0, str(error)
            continue
        images.append({"id": len(images) + 1, "file_name": path, "height": len(pixels), "width": pixels.shape[1]})
        own = [{"image_id": len(images), "iscrowd": 0, **entry} for entry in _annotations(found)]
        annotations += [{"id": len(annotations) + i, **entry} for i, entry in enumerate(own, 1)]
        Image.fromarray(drawn(model, pixels, found, least)).save(os.path.join(folder, name))
        yield path, len(own), ""
    count = max([len(model.classes), *(entry["category_id"] for entry in annotations)])
    categories = [{"id": i + 1, "name": _name(model, i)} for i in range(count)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_atomically(json.dumps(content), os.path.join(folder, RESULTS))


def _found(model: Predicts, path: str) -> tuple[np.ndarray, Found]:
    """A picture's pixels and what is found there; raises DataError when it cannot be read or the model fails on it."""
    pixels = pixels_of(path, model.facts.pixel_range)
    try:
        (found,) = model.predict(pixels)
    except Exception as error:  # each framework and runtime has exceptions of its own
        size = f"{pixels.shape[1]} x {len(pixels)} pixels"
        raise DataError(f"{path}: the model cannot take a picture of {size}: {first_line(error)}") from None
    return pixels, found


def drawn(model: Predicts, pixels: np.ndarray, found: Found, least: float) -> np.ndarray:
    """A picture (H, W, 3) with boxes, masks and classes of at least score ``least``; pixels of a class are tinted."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if model.facts.task == "segmentation":
        present = np.unique(found["labels"])
        image = _tinted(image, torch.from_numpy(found["labels"] == present[:, None, None]), present)
        return image.permute(1, 2, 0).numpy()
    shown = (
        {name: x[found["scores"] >= least] for name, x in found.items()} if "boxes" in found else _banner(found, pixels)
    )
    if "masks" in shown:
        image = _tinted(image, torch.from_numpy(shown["masks"] >= 0.5), shown["labels"])
    if len(shown["labels"]):
        words = [f"{_name(model, i)} {score:.2f}" for i, score in zip(shown["labels"], shown["scores"])]
        colors = [color_of(int(i)) for i in shown["labels"]]
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        # The weakest first: the others stay readable above it.
        for place in np.argsort(shown["scores"], kind="stable"):
            _boxed(picture, shown["boxes"][place].tolist(), words[place], colors[place])
        return np.asarray(picture)
    return image.permute(1, 2, 0).numpy()


def _boxed(picture: Image.Image, box: list[float], words: str, color: tuple[int, int, int]) -> None:
    """Draw a box with its words on a ground of its color: above it, or inside where the picture begins there."""
    pen, size = ImageDraw.Draw(picture), max(picture.size)
    width = max(1 + (size > _SMALL), round(size / 400))
    # Below _SMALL pixels letters shrink with the picture, as far as they can be read.
    font = ImageFont.load_default(max(min(11, max(7, 11 * size / _SMALL)), size / 55))
    # The last pixel lies inside the box, which ends behind it.
    x1, y1, x2, y2 = (min(max(x, 0), side - 1) for x, side in zip(box, 2 * picture.size))
    pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=width)
    _, _, length, height = pen.textbbox((0, 0), words, font)
    if length > max(picture.width / 2, x2 - x1):  # the score alone: words would hide what else is found
        _, _, length, height = pen.textbbox((0, 0), words := words.rpartition(" ")[2], font)
    left = max(min(x1, picture.width - length - 6), 0)
    top = y1 - height - 4 if y1 > height + 4 else y1
    pen.rectangle((left, top, left + length + 6, top + height + 4), fill=color)
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 140
    pen.text((left + 3, top + 1), words, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)


def _banner(found: Found, pixels: np.ndarray) -> Found:
    """The class of a picture as a box around all of it."""
    edge = np.array([[0, 0, pixels.shape[1] - 1, len(pixels) - 1]], np.float32)
    return {"boxes": edge, "labels": found["labels"], "scores": found["scores"][found["labels"]]}


def _tinted(image: Tensor, masks: Tensor, labels: np.ndarray) -> Tensor:
    colors = [color_of(int(i)) for i in labels]
    return draw_segmentation_masks(image, masks, alpha=0.5, colors=colors) if len(labels) else image


def _annotations(found: Found) -> Iterator[dict[str, Any]]:
    """What COCO tells of each object, of each class of pixels, or of the picture."""
    if "boxes" in found:
        for place, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
            entry = {"category_id": int(found["labels"][place]) + 1, "score": float(found["scores"][place])}
            inside = _coded(found["masks"][place] >= 0.5) if "masks" in found else {"area": (x2 - x1) * (y2 - y1)}
            yield inside | entry | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
    elif found["labels"].ndim == 2:
        for label in np.unique(found["labels"]).tolist():
            inside = found["labels"] == label
            yield {"category_id": label + 1, "score": float(found["scores"][label][inside].mean()), **_coded(inside)}
    else:
        best = int(found["labels"][0])
        yield {"category_id": best + 1, "score": float(found["scores"][best])}


def _coded(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask  # classifiers do without it

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    area, box = float(coco_mask.area(code)), coco_mask.toBbox(code).tolist()
    return {"segmentation": code | {"counts": code["counts"].decode()}, "area": area} | {"bbox": box}


def _name(model: Predicts, label: int) -> str:
    return model.classes[label] if label < len(model.classes) else f"class {label}"


def _names(pictures: Sequence[str]) -> list[str]:
    """The names of the drawn pictures: each picture's own, ending in .png, with a number where it is taken.

    One that would be longer than file systems allow is cut.
    """
    names: dict[str, None] = {}
    for path in pictures:
        stem = os.fsdecode(os.fsencode(os.path.splitext(os.path.basename(path))[0])[:_LONGEST])
        numbered = (f"{stem}{f'_{number}' if number > 1 else ''}.png" for number in itertools.count(1))
        names[next(name for name in numbered if name not in names)] = None
    return list(names)
