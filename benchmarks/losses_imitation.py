"""Imitation: the interval masks and the gathered loss against their formulas."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import Case
from kd2.distill import AnchorGrid, BatchInfo, FeatureSpec
from kd2.losses.imitation import Imitation, imitation_loss, imitation_mask, retinanet_shapes
from kd2.ops.masks import anchor_masks


def interval_mask(device: torch.device) -> Case:
    """P3 to P7 of an 800 x 1333 image, nine RetinaNet anchors a cell, 20 boxes, psi 0.5, joint rule."""
    strides, sizes = (8, 16, 32, 64, 128), ((100, 167), (50, 84), (25, 42), (13, 21), (7, 11))
    levels = zip(strides, sizes, strict=True)
    grids = [AnchorGrid(retinanet_shapes(s).to(device), (s, s), size) for s, size in levels]
    boxes = _boxes(20, (800, 1333), smallest=16, largest=400).to(device)
    anchors = [grid.dense() for grid in grids]
    return Case(
        lambda: anchor_masks([boxes], grids),
        lambda: [mask[None] for mask in imitation_mask(boxes, anchors)],
        tolerance=0.0,
    )


def gathered(adapter: str) -> Callable[[torch.device], Case]:
    """The whole loss, forward and backward, on two maps of 256 x 100 x 136 with 2 % of the cells masked."""

    def build(device: torch.device) -> Case:
        torch.manual_seed(0)
        student = torch.randn(2, 256, 100, 136, device=device, requires_grad=True)
        teacher = torch.randn(2, 256, 100, 136, device=device)
        # Three blobs an image: 272 of its 13,600 cells. A box of G at stride 8 is exactly its cells.
        cells = torch.tensor([[10, 10, 22, 20], [60, 30, 72, 40], [100, 80, 104, 88]])
        spec = [FeatureSpec(256, (100, 136), (8, 8))]
        loss = Imitation(spec, spec, mode="gt_box", adapter=adapter).to(device)
        batch_info = BatchInfo([(800, 1088)] * 2, (800, 1088), [8.0 * cells] * 2)
        mask = torch.zeros(2, 100, 136, dtype=torch.bool, device=device)
        for left, top, right, bottom in cells.tolist():
            mask[:, top:bottom, left:right] = True
        leaves = [student, *loss.parameters()]

        def formula() -> list[Tensor]:
            adapted = student if adapter == "none" else F.conv2d(student, *leaves[1:], padding=1)
            return [imitation_loss([adapted], [teacher], [mask])]

        return Case(lambda: [loss([student], [teacher], batch_info)], formula, tolerance=1e-4, leaves=leaves)

    return build


def _boxes(count: int, size: tuple[int, int], smallest: float, largest: float) -> Tensor:
    """Random boxes (count, 4) inside an image of ``size`` (H, W) pixels."""
    draw = torch.rand(4, count, generator=torch.Generator().manual_seed(0))
    width, height = smallest + (largest - smallest) * draw[:2] ** 2
    x, y = draw[2] * (size[1] - width), draw[3] * (size[0] - height)
    return torch.stack([x, y, x + width, y + height], 1)


CASES = {
    "interval_mask": interval_mask,
    "imitation_gathered_2pct": gathered("none"),
    "imitation_gathered_2pct_adapter": gathered("conv3x3"),
}
