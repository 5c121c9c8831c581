"""Anchors of torchvision's detectors, in float32 whatever the maps are, spaced and rounded as torchvision or Detectron2
does it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

Size = tuple[int, int]


class ExactAnchors(AnchorGenerator):
    """Anchors in float32; torchvision makes them in the precision of the maps: bfloat16 is 2 pixels coarse at 256."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Anchors of the images, per image (A, 4) in pixels; only sizes and device of the maps count."""
        return super().forward(image_list, _in_float32(feature_maps))


class ExactDefaultBoxes(DefaultBoxGenerator):
    """The default boxes of SSD in float32, see ``ExactAnchors``."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """As ``ExactAnchors.forward``."""
        return super().forward(image_list, _in_float32(feature_maps))


class Detectron2Anchors(AnchorGenerator):
    """Anchors with sides that are not rounded, spaced by the strides of their levels.

    Args:
        sizes, aspect_ratios: see ``AnchorGenerator``.
        first_stride: pixels a cell of the first level; every level has twice as many as the one before.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]], first_stride: int):
        super().__init__(sizes, aspect_ratios)
        self.strides = [first_stride * 2**level for level in range(len(sizes))]

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """(R x S, 4) around (0, 0), by ratio, then size."""
        sizes, ratios = (torch.tensor(x, dtype=torch.float64, device=device) for x in (scales, aspect_ratios))
        widths = (sizes**2 / ratios[:, None]).sqrt()
        heights = ratios[:, None] * widths
        return (torch.stack([-widths, -heights, widths, heights], dim=-1) / 2).reshape(-1, 4).to(dtype)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """As ``ExactAnchors.forward``."""
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        grids = [x.shape[-2:] for x in feature_maps]
        anchors = torch.cat(self.grid_anchors(grids, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)


def spacing(generator: AnchorGenerator, level: int, padded: Size, cells: Size) -> Size:
    """Pixels from one anchor to the next, (vertical, horizontal), on a level of ``cells`` in a batch of ``padded``."""
    if isinstance(generator, Detectron2Anchors):
        return generator.strides[level], generator.strides[level]
    return padded[0] // cells[0], padded[1] // cells[1]  # torchvision rounds down


def _in_float32(feature_maps: list[Tensor]) -> list[Tensor]:
    """Maps of one channel in the same sizes, on the same device, with any content."""
    return [x.new_empty(x.shape[-2:], dtype=torch.float32) for x in feature_maps]
