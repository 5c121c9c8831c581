"""Pictures in, drawn pictures and one COCO JSON out."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from kd2.data.images import ENDINGS
from kd2.deploy.predictor import Found, Predicts, pixels_of
from kd2.distill import ConfigError, DataError
from kd2.report.data_pictures import color_of
from kd2.runs.files import write_atomically

RESULTS = "predictions.json"


def pictures_of(paths: Iterable[str]) -> list[str]:
    """The pictures among files and folders, those of a folder by their endings and sorted.

    Raises:
        ConfigError: a path that does not exist, a folder without a picture.
    """
    found = []
    for path in paths:
        if not os.path.exists(path):
            raise ConfigError(f"{path} does not exist, expected a picture or a folder of pictures")
        inside = [path]
        if os.path.isdir(path):
            inside = [os.path.join(path, x) for x in sorted(os.listdir(path)) if x.lower().endswith(ENDINGS)]
        if not inside:
            raise ConfigError(f"{path} has no picture; known by {', '.join(ENDINGS)}")
        found += inside
    return found


def check_output(folder: str) -> None:
    """Create the folder of the results; raises ConfigError when it has some already or cannot be written."""
    if os.path.lexists(os.path.join(folder, RESULTS)):
        raise ConfigError(f"--output {folder!r} has {RESULTS} already, expected a folder without it")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder!r} is not writable: {error.strerror}") from None


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
    names: set[str] = set()
    for path in pictures:
        try:
            pixels = pixels_of(path, model.facts.pixel_range)
        except (DataError, OSError) as error:
            yield path, 0, str(error)
            continue
        (found,) = model.predict(pixels)
        images.append({"id": len(images) + 1, "file_name": path, "height": len(pixels), "width": pixels.shape[1]})
        own = [{"image_id": len(images), "iscrowd": 0, **entry} for entry in _annotations(found)]
        annotations += [{"id": len(annotations) + i, **entry} for i, entry in enumerate(own, 1)]
        Image.fromarray(drawn(model, pixels, found, least)).save(os.path.join(folder, _free_name(path, names)))
        yield path, len(own), ""
    count = max([len(model.classes), *(entry["category_id"] for entry in annotations)])
    categories = [{"id": i + 1, "name": _name(model, i)} for i in range(count)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_atomically(json.dumps(content), os.path.join(folder, RESULTS))


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
        image = draw_bounding_boxes(image, torch.from_numpy(shown["boxes"]), words, colors, width=2)
    return image.permute(1, 2, 0).numpy()


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


def _free_name(path: str, taken: set[str]) -> str:
    """A name for the drawn picture that no other one of this call has."""
    stem = os.path.splitext(os.path.basename(path))[0]
    name, number = f"{stem}.png", 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}.png"
    taken.add(name)
    return name
