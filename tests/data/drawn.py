"""Tiny trees of images and labels."""

from pathlib import Path

import numpy
from PIL import Image


def draw(path: Path, values=((0, 0, 0),), size: tuple[int, int] = (3, 2), **how) -> Path:
    """Write a picture of ``size`` (width, height) whose pixels repeat ``values``: numbers, or colours."""
    pixels = numpy.resize(numpy.array(values, dtype=numpy.uint8), (size[1], size[0], *numpy.shape(values)[1:]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path
