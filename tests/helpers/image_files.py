"""Tiny trees of images and labels."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, values=((0, 0, 0),), size: tuple[int, int] = (3, 2), **how) -> Path:
    """Write a picture of ``size`` (width, height) whose pixels repeat ``values``: numbers, or colors."""
    pixels = np.resize(np.array(values, dtype=np.uint8), (size[1], size[0], *np.shape(values)[1:]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path
