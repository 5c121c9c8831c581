"""A small detection data set: six kinds of shapes among distractors, in part hidden by each other.

Color and size say nothing about the class, so the outline has to be learned. Every image depends on
(seed, split, number) alone, so the teacher's images are none of a quick start's, whatever its seed.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from examples.quickstart.outlines import OUTLINES, distractor

CLASSES = tuple(OUTLINES)
SPLITS = ("train", "val", "teacher")
SIZE = 128
# Drawn this much larger and reduced, for smooth edges.
_OVERSAMPLING = 4
# Shapes lean to either side by this angle at most, in radians.
_TILT = 0.3
# At least this much of a labeled shape stays visible.
_VISIBLE = 0.45


@dataclass(frozen=True)
class Picture:
    """An image, and which shape shows where.

    Attributes:
        image: RGB, ``SIZE`` x ``SIZE`` pixels.
        owner: (SIZE, SIZE) int, the number of the shape that shows at a pixel, -1 for none.
        labels: class index of every shape.
    """

    image: Image.Image
    owner: np.ndarray
    labels: list[int]

    def boxes(self) -> list[list[int]]:
        """The tight boxes x, y, width, height of the visible pixels of each shape."""
        boxes = []
        for number in range(len(self.labels)):
            y, x = np.nonzero(self.owner == number)
            boxes.append([int(x.min()), int(y.min()), int(x.max() - x.min() + 1), int(y.max() - y.min() + 1)])
        return boxes


def draw(seed: int, split: int, number: int) -> Picture:
    """Image ``number`` of a split: a background, one to four distractors, then up to five shapes over each other."""
    rng = np.random.default_rng([seed, split, number])
    image = _background(rng)
    owner, areas, labels = np.full((SIZE, SIZE), -1), [], []
    for _ in range(rng.integers(1, 5)):
        _paint(rng, image, _mask(distractor(rng), *_place(rng, tilt=math.pi)))
    for _ in range(rng.integers(2, 6)):
        label = int(rng.integers(len(CLASSES)))
        mask = _mask(OUTLINES[CLASSES[label]](rng), *_place(rng, _TILT))
        covered = np.asarray(mask) > 127
        after = np.where(covered, len(labels), owner)
        if all((after == i).sum() >= _VISIBLE * area for i, area in enumerate(areas)):
            _paint(rng, image, mask)
            owner, areas, labels = after, [*areas, covered.sum()], [*labels, label]
    return Picture(_noisy(rng, image), owner, labels)


def write(folder: str, counts: dict[str, int], seed: int) -> dict[str, str]:
    """Write one COCO file and one image folder a split.

    Args:
        counts: split, of ``SPLITS`` -> number of images.

    Returns:
        Split -> JSON file; its images lie in the folder of the same name without ``.json``.
    """
    files = {}
    for name, count in counts.items():
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        objects = []
        for number in range(count):
            picture = draw(seed, SPLITS.index(name), number)
            picture.image.save(os.path.join(folder, name, _file_name(number)), compress_level=1)
            objects.append(list(zip(picture.labels, picture.boxes())))
        files[name] = os.path.join(folder, f"{name}.json")
        with open(files[name], "w") as file:
            json.dump(coco(objects), file)
    return files


def coco(objects: Sequence[Sequence[tuple[int, list[int]]]]) -> dict:
    """The (label, box) pairs of every picture as the content of a COCO instances file."""
    images, annotations = [], []
    for number, found in enumerate(objects):
        images.append({"id": number + 1, "file_name": _file_name(number), "width": SIZE, "height": SIZE})
        for label, box in found:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _file_name(number: int) -> str:
    return f"{number:05d}.png"


def _place(rng: Generator, tilt: float) -> tuple[float, float, float, float]:
    """Center x and y and radius in pixels, angle of at most ``tilt`` to either side in radians."""
    radius = math.exp(rng.uniform(math.log(9), math.log(28)))
    x, y = rng.uniform(0.8 * radius, SIZE - 0.8 * radius, 2)
    return x, y, radius, rng.uniform(-tilt, tilt)


def _mask(rings: list[np.ndarray], x: float, y: float, radius: float, angle: float) -> Image.Image:
    """Coverage (0 to 255) of an outline of unit radius; rings behind the first are holes."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    large = Image.new("L", (SIZE * _OVERSAMPLING, SIZE * _OVERSAMPLING))
    pen = ImageDraw.Draw(large)
    for i, ring in enumerate(rings):
        points = (ring @ turn * radius + (x, y)) * _OVERSAMPLING
        pen.polygon([tuple(p) for p in points], fill=0 if i else 255)
    return large.reduce(_OVERSAMPLING)


def _paint(rng: Generator, image: Image.Image, mask: Image.Image) -> None:
    """Fill the mask with a bright or a dark color and a faint gradient."""
    color = rng.uniform(*((0, 90) if rng.random() < 0.5 else (165, 255)), 3)
    shade = rng.uniform(-20, 20, 3)
    image.paste(_gradient(rng, color - shade, color + shade), (0, 0), mask)


def _background(rng: Generator) -> Image.Image:
    first, second = rng.uniform(95, 160, (2, 3))
    image = _gradient(rng, first, second)
    spots = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
    cloud = spots.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return Image.blend(image, Image.merge("RGB", [cloud] * 3), 0.15)


def _gradient(rng: Generator, first: np.ndarray, second: np.ndarray) -> Image.Image:
    angle = rng.uniform(0, 2 * math.pi)
    place = np.arange(SIZE, dtype=np.float32) / SIZE - 0.5
    part = np.clip(place * math.cos(angle) + place[:, None] * math.sin(angle) + 0.5, 0, 1)
    ends = zip(first.tolist(), second.tolist())
    bands = [np.clip(a + part * (b - a), 0, 255).astype(np.uint8) for a, b in ends]
    return Image.merge("RGB", [Image.fromarray(band) for band in bands])


def _noisy(rng: Generator, image: Image.Image) -> Image.Image:
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.7)))
    noise = Image.fromarray(rng.normal(128, 4, (SIZE, SIZE, 3)).astype(np.uint8))
    return ImageChops.add(image, noise, offset=-128)
