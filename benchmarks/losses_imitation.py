"""Imitation: the interval masks against a dense IoU, the gathered loss against a dense map times its mask."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import Case
from kd2.distill import AnchorGrid, FeatureSpec, BatchInfo
from kd2.ops.masks import anchor_masks
from kd2.losses.imitation import Imitation, retinanet_shapes


def interval_mask(device: torch.device) -> Case:
    """P3 to P7 of an 800 x 1333 image, nine RetinaNet anchors a cell, 20 boxes, psi 0.5, joint rule."""
    strides, sizes = (8, 16, 32, 64, 128), ((100, 167), (50, 84), (25, 42), (13, 21), (7, 11))
    grids = [AnchorGrid(retinanet_shapes(s).to(device), (s, s), size) for s, size in zip(strides, sizes)]
    boxes = _boxes(20, (800, 1333), smallest=16, largest=400).to(device)
    dense = torch.cat([grid.dense().flatten(0, 2) for grid in grids])

    def reference() -> list[Tensor]:
        iou = _pairwise_iou(boxes, dense)
        near = (iou > 0.5 * iou.amax(1, keepdim=True)).any(0)
        parts = near.view(-1, 9).any(1).split([height * width for height, width in sizes])
        return [part.view(1, *size) for part, size in zip(parts, sizes)]

    return Case(lambda: anchor_masks([boxes], grids), reference, tolerance=0.0)


def gathered(adapter: bool) -> Callable[[torch.device], Case]:
    """The whole loss, forward and backward, on two maps of 256 x 100 x 136 with 2 % of the cells masked."""

    def build(device: torch.device) -> Case:
        torch.manual_seed(0)
        student = torch.randn(2, 256, 100, 136, device=device, requires_grad=True)
        teacher = torch.randn(2, 256, 100, 136, device=device)
        # Three blobs an image: 272 of its 13,600 cells. A box of G at stride 8 is exactly its cells.
        cells = torch.tensor([[10, 10, 22, 20], [60, 30, 72, 40], [100, 80, 104, 88]])
        spec = [FeatureSpec(256, (100, 136), (8, 8))]
        criterion = Imitation(spec, spec, mode="gt_box", adapter=adapter).to(device)
        batch_info = BatchInfo([(800, 1088)] * 2, (800, 1088), [8.0 * cells] * 2)
        mask = torch.zeros(2, 1, 100, 136, device=device)
        for left, top, right, bottom in cells.tolist():
            mask[:, :, top:bottom, left:right] = 1
        leaves = [student, *criterion.parameters()]

        def ours() -> list[Tensor]:
            loss = criterion([student], [teacher], batch_info)
            return [loss, *torch.autograd.grad(loss, leaves)]

        def reference() -> list[Tensor]:
            adapted = F.conv2d(student, *leaves[1:], padding=1) if adapter else student
            loss = (mask * (adapted - teacher) ** 2).sum() / (2 * mask.sum())
            return [loss, *torch.autograd.grad(loss, leaves)]

        return Case(ours, reference, tolerance=1e-4)

    return build


def _boxes(count: int, size: tuple[int, int], smallest: float, largest: float) -> Tensor:
    """Random boxes (count, 4) inside an image of ``size`` (H, W) pixels."""
    draw = torch.rand(4, count, generator=torch.Generator().manual_seed(0))
    width, height = smallest + (largest - smallest) * draw[:2] ** 2
    x, y = draw[2] * (size[1] - width), draw[3] * (size[0] - height)
    return torch.stack([x, y, x + width, y + height], 1)


def _pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """The plain formula: (M, 4) and (A, 4) to (M, A)."""
    corner = torch.maximum(a[:, None, :2], b[:, :2])
    overlap = (torch.minimum(a[:, None, 2:], b[:, 2:]) - corner).clamp(min=0).prod(2)
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    return overlap / (area_a[:, None] + area_b - overlap)


CASES = {
    "interval_mask": interval_mask,
    "imitation_gathered_2pct": gathered(adapter=False),
    "imitation_gathered_2pct_adapter": gathered(adapter=True),
}
