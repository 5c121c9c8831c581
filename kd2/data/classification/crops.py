"""Views of one image: which part of it a network sees.

Letters: H x W image in pixels, L side of the square that a network takes in.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

Crop = Literal["rs", "cc", "rc", "ic"]
Size = tuple[int, int]  # (H, W)

_TRIES = 10


@dataclass(frozen=True)
class View:
    """A rectangle of the original image, and whether it is mirrored left to right afterwards.

    ``box`` is (top, left, height, width) in whole pixels of the original image; what lies outside the image is black.
    """

    box: tuple[int, int, int, int]
    flip: bool = False


@dataclass(frozen=True)
class Crops:
    """How views are drawn. Each field is a key of ``KD.VIEWS``.

    Attributes:
        scale: ``cc`` and ``rc`` bring the shorter side to ``scale`` L and cut L x L out of that.
        padding: above 0, ``rc`` instead moves the whole image by up to this many pixels each way (4 on CIFAR), and
            ``cc`` is the whole image.
        area: share of the image that ``ic`` keeps, smallest and largest.
        aspect: width / height of an ``ic`` box, smallest and largest.
        flip: probability of the mirror image in ``rc`` and ``ic``.
    """

    scale: float = 1.25
    padding: int = 0
    area: tuple[float, float] = (0.05, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def view(self, crop: Crop, image: Size, generator: np.random.Generator) -> View:
        """One view of an image of (H, W) pixels: ``rs`` and ``cc`` draw nothing, ``rc`` and ``ic`` a box and a flip."""
        if crop == "rs" or (crop == "cc" and self.padding):
            return View((0, 0, *image))
        if crop == "cc":
            side = self._side(image)
            return View(((image[0] - side) // 2, (image[1] - side) // 2, side, side))
        box = self._inception(image, generator) if crop == "ic" else self._mild(image, generator)
        return View(box, bool(generator.random() < self.flip))

    def _side(self, image: Size) -> int:
        return max(round(min(image) / self.scale), 1)

    def _mild(self, image: Size, generator: np.random.Generator) -> tuple[int, int, int, int]:
        if self.padding:
            top, left = generator.integers(-self.padding, self.padding, 2, endpoint=True).tolist()
            return top, left, *image
        return _placed((self._side(image),) * 2, image, generator)

    def _inception(self, image: Size, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """The first of some boxes of random area and (log-uniform) aspect that fits; else the largest central one."""
        areas = generator.uniform(*self.area, _TRIES) * (image[0] * image[1])
        low, high = np.log(self.aspect)
        aspects = np.exp(generator.uniform(low, high, _TRIES))
        heights, widths = np.sqrt(areas / aspects).round().clip(1), np.sqrt(areas * aspects).round().clip(1)
        fits = np.flatnonzero((heights <= image[0]) & (widths <= image[1]))
        if len(fits):
            return _placed((int(heights[fits[0]]), int(widths[fits[0]])), image, generator)
        height = min(image[0], round(image[1] / self.aspect[0]))
        width = min(image[1], round(image[0] * self.aspect[1]))
        return (image[0] - height) // 2, (image[1] - width) // 2, height, width


def _placed(box: Size, image: Size, generator: np.random.Generator) -> tuple[int, int, int, int]:
    top, left = (int(generator.integers(0, whole - part, endpoint=True)) for part, whole in zip(box, image))
    return top, left, *box


def apply(image: Tensor, view: View, size: int) -> Tensor:
    """What a network of input side L sees of an image.

    The box is cut from the original image and resized once (bilinear, antialiased), so views of two sides L show the
    same content. The result is rounded to 8 bits, as by any image library; a box that is L x L already is copied
    exactly.

    Args:
        image: (C, H, W) uint8. size: L.

    Returns:
        (C, L, L) uint8.
    """
    top, left, height, width = view.box
    bottom, right = top + height, left + width
    inside = image[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    outside = (max(-left, 0), max(right - image.shape[2], 0), max(-top, 0), max(bottom - image.shape[1], 0))
    cut = F.pad(inside, outside) if any(outside) else inside
    if cut.shape[1:] != (size, size):
        cut = F.interpolate(cut[None], (size, size), mode="bilinear", antialias=True)[0]
    return cut.flip(2) if view.flip else cut.contiguous()
