"""Regions of feature maps chosen by boxes.

Letters: N images, M boxes of the whole batch, L levels, K anchors a cell, R rows of all levels, H x W map.
Everything is vectorized over boxes and images and never waits for a device.
"""

from typing import Literal

import torch
from torch import Tensor

from kd2.distill import AnchorGrid, BatchInfo

LevelRule = Literal["joint", "per_level"]


def anchor_masks(
    boxes: list[Tensor],
    grids: list[AnchorGrid],
    psi: float = 0.5,
    level_rule: LevelRule = "joint",
    plus_one: bool = False,
) -> list[Tensor]:
    """Cells near objects: some anchor's IoU with a box b is above ``psi`` times the best IoU of b.

    It is exact and builds no boxes x anchors tensor: in one row of cells the anchors of one shape that pass the
    threshold form an interval of columns. Its two ends are marked +1 and -1 and a running sum along the row gives the
    mask. The work is O(M K R). It is computed in float64; the comparison is strict, ties stay out.

    Args:
        boxes: N tensors (M_n, 4), x1 y1 x2 y2 in pixels.
        grids: L anchor grids in the frame of the boxes; all anchors count, also over padding or across the border.
        psi: factor on the best IoU, in [0, 1]. 1 keeps nothing; 0 keeps every cell with an anchor that overlaps a box.
        level_rule: ``joint`` takes a box's best IoU over all levels, ``per_level`` of each level on its own.
        plus_one: inclusive pixel coordinates (widths, heights and intersections are 1 larger), as in the authors' code.

    Returns:
        L boolean masks (N, H, W) on the device of the boxes.

    Source: Wang et al., CVPR 2019 (arXiv 1906.03609), section 3.2, eq. 1-3.
    """
    layout = _Rows(grids, boxes[0].device)
    box, anchor = _edges(torch.cat(boxes).double(), plus_one), _edges(layout.base, plus_one)
    best = _best_iou(box, anchor, layout)
    if level_rule == "joint":
        best = best.amax(1, keepdim=True).expand_as(best)
    image = _image_of(boxes).to(box.device)
    ends = layout.no_ends(len(boxes))
    bases = anchor[layout.level]
    many = _boxes_at_once(bases)
    for of in (slice(start, start + many) for start in range(0, len(box), many)):
        layout.mark(ends, image[of], *_intervals(box[of], bases, psi * best[of], layout))
    return layout.masks(ends, len(boxes))


def _image_of(boxes: list[Tensor]) -> Tensor:
    """The image of every box of the batch, (M,), on the host."""
    counts = [len(b) for b in boxes]
    return torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor(counts), output_size=sum(counts))


def _boxes_at_once(bases: Tensor) -> int:
    """So many that temporaries stay small: on the CPU below the size from which PyTorch would wake other threads."""
    return max((1 << (15 if bases.device.type == "cpu" else 20)) // bases.shape[:2].numel(), 1)


def _intervals(box: Tensor, bases: Tensor, threshold: Tensor, layout: "_Rows") -> tuple[Tensor, Tensor, Tensor]:
    """First and last column that pass, and whether any does, each (M, R, K).

    Args:
        box: (M, 4). bases: (R, K, 4), the anchors of every row's first cell in its level's first row.
        threshold: (M, L), what the IoU must exceed.
    """
    threshold = threshold[:, layout.level, None]
    bottom = torch.minimum(bases[..., 3] + layout.y, box[:, 3, None, None])
    height = bottom.sub_(torch.maximum(bases[..., 1] + layout.y, box[:, 1, None, None]))
    # IoU > threshold asks for an overlap wider than t.
    areas = (_area(bases) + _area(box)[:, None, None]).mul_(1 + 1e-9)
    t = areas.mul_(threshold).div_((1 + threshold) * height)
    first = (t + box[:, 0, None, None]).sub_(bases[..., 2]).div_(layout.sx).floor_().add_(1).clamp_(min=0)
    last = (box[:, 2, None, None] - bases[..., 0]).sub_(t).div_(layout.sx).ceil_().sub_(1)
    last = torch.minimum(last, layout.width - 1)
    widest = torch.minimum(_side(bases, 0), _side(box, 0)[:, None, None])
    return first, last, (height > 0).logical_and_(t < widest).logical_and_(first <= last)


def best_iou(boxes: list[Tensor], grids: list[AnchorGrid], plus_one: bool = False) -> Tensor:
    """Best IoU of every box with the anchors of every level, (M, L) float64; arguments as in ``anchor_masks``."""
    layout = _Rows(grids, boxes[0].device)
    return _best_iou(_edges(torch.cat(boxes).double(), plus_one), _edges(layout.base, plus_one), layout)


class _Rows:
    """The rows of all levels one below the other: constants per row, and painting intervals into them.

    Anchor shapes of a level with fewer than K are padded with empty boxes that overlap nothing.
    """

    def __init__(self, grids: list[AnchorGrid], device: torch.device):
        shapes = max(len(grid.base) for grid in grids)
        base = torch.full((len(grids), shapes, 4), -1e9, dtype=torch.float64, device=device)
        for level, grid in enumerate(grids):
            base[level, : len(grid.base)] = grid.base
        self.base = base
        self.sizes = [grid.size for grid in grids]
        # Per level: cells (y, x), stride (y, x).
        self.levels = torch.tensor([(*grid.size, *grid.stride) for grid in grids], dtype=torch.float64, device=device)
        heights = torch.tensor([grid.size[0] for grid in grids])
        rows = sum(grid.size[0] for grid in grids)
        self.level = torch.repeat_interleave(heights, output_size=rows).to(device)
        row = torch.arange(rows, device=device) - (heights.cumsum(0) - heights).to(device)[self.level]
        of_row = self.levels[self.level]
        self.width, self.sx = of_row[:, 1:2], of_row[:, 3:4]
        self.y = (row * of_row[:, 2])[:, None]
        ends = (of_row[:, 1].long() + 1).cumsum(0)
        self.start = (ends - of_row[:, 1].long() - 1)[:, None]
        self.total = sum(h * (w + 1) for h, w in self.sizes)

    def no_ends(self, images: int) -> Tensor:
        """Room for the ends of intervals in the rows of ``images`` images, with one more cell behind every row."""
        return torch.zeros(images * self.total, dtype=torch.int32, device=self.base.device)

    def mark(self, ends: Tensor, image: Tensor, first: Tensor, last: Tensor, passes: Tensor) -> None:
        """Add +1 at ``first`` and -1 behind ``last`` (M, R, K) where ``passes``; ``image`` (M,) is the boxes' image."""
        row = self.start + (image * self.total)[:, None, None]
        mark = passes.int().flatten()
        ends.index_add_(0, (row + first.where(passes, 0).long()).flatten(), mark)
        ends.index_add_(0, (row + last.where(passes, -1).long() + 1).flatten(), mark, alpha=-1)

    def masks(self, ends: Tensor, images: int) -> list[Tensor]:
        """The L masks (N, H, W) inside the marked intervals."""
        # Every row's marks sum to zero, so one running sum over everything never carries into the next row.
        inside = (ends.cumsum(0, dtype=torch.int32) > 0).view(images, self.total)
        masks = inside.split([h * (w + 1) for h, w in self.sizes], dim=1)
        return [m.view(images, h, w + 1)[:, :, :w] for m, (h, w) in zip(masks, self.sizes, strict=True)]


def _side(box: Tensor, axis: int) -> Tensor:
    return box[..., axis + 2] - box[..., axis]


def _area(box: Tensor) -> Tensor:
    return _side(box, 0) * _side(box, 1)


def _edges(box: Tensor, plus_one: bool) -> Tensor:
    """Boxes (..., 4) in continuous coordinates: inclusive ones end one pixel later."""
    return torch.cat([box[..., :2], box[..., 2:] + 1], -1) if plus_one else box


def _best_iou(box: Tensor, anchor: Tensor, layout: _Rows) -> Tensor:
    """Best IoU of every box on every level, (M, L): of each shape, largest overlap in width times that in height."""
    low, high = box[:, None, None, :2], box[:, None, None, 2:]  # (M, 1, 1, xy)
    anchor_low, anchor_high = anchor[..., :2], anchor[..., 2:]  # (L, K, xy)
    cells, stride = layout.levels[:, None, [1, 0]], layout.levels[:, None, [3, 2]]  # (L, 1, xy)
    # Overlap is largest where the centers meet: in one of the two cells around that place.
    centered = ((low + high - (anchor_low + anchor_high)) / (2 * stride)).floor_()
    widths = []
    for cell in (centered, centered + 1):
        shift = torch.minimum(cell.clamp(min=0), cells - 1).mul_(stride)
        widths.append(torch.minimum(anchor_high + shift, high) - torch.maximum(anchor_low + shift, low))
    overlap = torch.maximum(*widths).clamp_(min=0).prod(-1)
    union = _area(anchor) + _area(box)[:, None, None] - overlap
    return torch.where(overlap > 0, overlap / union, 0.0).amax(2)


def box_masks(boxes: list[Tensor], sizes: list[tuple[int, int]], strides: list[tuple[float, float]]) -> list[Tensor]:
    """Cells inside any box: columns ``floor(x1/s)`` to ``ceil(x2/s) - 1``, rows alike, cut to the map.

    Boxes without area and boxes outside the map mark nothing; every other box marks at least one cell.

    Args:
        boxes: N tensors (M_n, 4) in pixels.
        sizes: (H, W) of each level.
        strides: (y, x) pixels a cell of each level.

    Returns:
        L boolean masks (N, H, W) on the device of the boxes.
    """
    box = torch.cat(boxes).double()
    image = _image_of(boxes).to(box.device)
    masks = []
    for (height, width), (sy, sx) in zip(sizes, strides, strict=True):
        left, top = torch.floor(box[:, 0] / sx).clamp(min=0), torch.floor(box[:, 1] / sy).clamp(min=0)
        right = torch.ceil(box[:, 2] / sx).clamp(max=width)
        bottom = torch.ceil(box[:, 3] / sy).clamp(max=height)
        covers = (_side(box, 0) > 0) & (_side(box, 1) > 0) & (left < right) & (top < bottom)
        corner = torch.zeros(len(boxes) * (height + 1) * (width + 1), dtype=torch.int32, device=box.device)
        for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
            cell = (image * (height + 1) + y.where(covers, 0).long()) * (width + 1) + x.where(covers, 0).long()
            corner.index_add_(0, cell, covers.int(), alpha=sign)
        inside = corner.view(len(boxes), height + 1, width + 1).cumsum(1).cumsum(2) > 0
        masks.append(inside[:, :height, :width])
    return masks


def inside_image(size: tuple[int, int], stride: tuple[float, float], image_sizes: list[tuple[int, int]]) -> Tensor:
    """Cells (N, H, W) whose center lies in the real image, not in the padding; on the host."""
    real = torch.tensor(image_sizes, dtype=torch.float64)
    y = (torch.arange(size[0]) + 0.5) * stride[0]
    x = (torch.arange(size[1]) + 0.5) * stride[1]
    return (y[None, :, None] < real[:, 0, None, None]) & (x[None, None, :] < real[:, 1, None, None])


def image_region(x: Tensor, batch_info: BatchInfo) -> Tensor:
    """Cells (N, 1, H, W) of a map whose center lies in the real image, not in the padding; on the map's device."""
    size = (x.shape[2], x.shape[3])
    stride = (batch_info.padded_size[0] / size[0], batch_info.padded_size[1] / size[1])
    return inside_image(size, stride, batch_info.image_sizes)[:, None].to(x.device, non_blocking=True)
