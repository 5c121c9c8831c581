"""Regions of feature maps chosen by boxes.

Letters: N images, M boxes of the whole batch, L levels, K anchors a cell, R rows of all levels, H x W map.
Everything is vectorised over boxes and images and never waits for a device.
"""

from typing import Literal

import torch
from torch import Tensor

from kd2.core import AnchorGrid

LevelRule = Literal["joint", "per_level"]


def anchor_masks(
    boxes: list[Tensor],
    grids: list[AnchorGrid],
    psi: float = 0.5,
    level_rule: LevelRule = "joint",
    plus_one: bool = False,
) -> list[Tensor]:
    """Cells near objects: some anchor's IoU with a box b is above ``psi`` times the best IoU of b.

    Exact without any boxes x anchors tensor: in one row of cells the anchors of one shape that pass the threshold form an
    interval of columns. Its two ends are marked +1 and -1 and a running sum along the row gives the mask. The work is
    O(M K R). Computed in float64; the comparison is strict, ties stay out.

    Args:
        boxes: N tensors (M_n, 4), x1 y1 x2 y2 in pixels.
        grids: L anchor grids in the frame of the boxes; all anchors count, also those over padding or across the border.
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
    threshold = (psi * best)[:, layout.level, None]

    # Overlap heights of every row's anchors, (M, R, K), and the overlap width t that IoU > threshold then asks for.
    bases = anchor[layout.level]
    bottom = torch.minimum(bases[..., 3] + layout.y, box[:, 3, None, None])
    height = bottom - torch.maximum(bases[..., 1] + layout.y, box[:, 1, None, None])
    areas = (_area(anchor)[layout.level] + _area(box)[:, None, None]) * (1 + 1e-9)
    t = threshold * areas / ((1 + threshold) * height)
    first = torch.floor((t + box[:, 0, None, None] - bases[..., 2]) / layout.sx) + 1
    last = torch.ceil((box[:, 2, None, None] - bases[..., 0] - t) / layout.sx) - 1
    first, last = first.clamp_(min=0), torch.minimum(last, layout.width - 1)
    widest = torch.minimum(_side(bases, 0), _side(box, 0)[:, None, None])
    passes = (height > 0) & (t < widest) & (first <= last)
    return layout.fill(first, last, passes, [len(b) for b in boxes])


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
        heights = [grid.size[0] for grid in grids]

        def per_row(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor([v for v, h in zip(values, heights) for _ in range(h)], dtype=dtype, device=device)

        self.base = base
        self.sizes = [grid.size for grid in grids]
        self.strides = torch.tensor([grid.stride for grid in grids], dtype=torch.float64, device=device)
        self.level = per_row(list(range(len(grids))), torch.int64)
        self.width = per_row([grid.size[1] for grid in grids])[:, None]
        self.sx = per_row([grid.stride[1] for grid in grids])[:, None]
        rows = torch.tensor([i * grid.stride[0] for grid in grids for i in range(grid.size[0])], dtype=torch.float64)
        self.y = rows.to(device)[:, None]
        cells = torch.tensor([0] + [grid.size[1] + 1 for grid in grids for _ in range(grid.size[0])])
        starts = cells.cumsum(0)
        self.start, self.total = starts[:-1].to(device)[:, None], int(starts[-1])

    def fill(self, first: Tensor, last: Tensor, passes: Tensor, boxes_per_image: list[int]) -> list[Tensor]:
        """Masks (N, H, W) of the intervals first..last (M, R, K) of columns where ``passes``."""
        images = len(boxes_per_image)
        device = first.device
        image = torch.repeat_interleave(
            torch.arange(images), torch.tensor(boxes_per_image), output_size=sum(boxes_per_image)
        )
        row = self.start + (image.to(device) * self.total)[:, None, None]
        mark = passes.int()
        ends = torch.zeros(images * self.total, dtype=torch.int32, device=device)
        ends.index_add_(0, (row + first.where(passes, 0).long()).flatten(), mark.flatten())
        ends.index_add_(0, (row + last.where(passes, -1).long() + 1).flatten(), mark.flatten(), alpha=-1)
        # Every row's marks sum to zero, so one running sum over everything never carries into the next row.
        inside = (ends.cumsum(0, dtype=torch.int32) > 0).view(images, self.total)
        masks = inside.split([h * (w + 1) for h, w in self.sizes], dim=1)
        return [m.view(images, h, w + 1)[:, :, :w] for m, (h, w) in zip(masks, self.sizes)]


def _side(box: Tensor, axis: int) -> Tensor:
    return box[..., axis + 2] - box[..., axis]


def _area(box: Tensor) -> Tensor:
    return _side(box, 0) * _side(box, 1)


def _edges(box: Tensor, plus_one: bool) -> Tensor:
    """Boxes (..., 4) in continuous coordinates: inclusive ones end one pixel later."""
    return torch.cat([box[..., :2], box[..., 2:] + 1], -1) if plus_one else box


def _best_iou(box: Tensor, anchor: Tensor, layout: _Rows) -> Tensor:
    """Best IoU of every box on every level, (M, L): the product of the largest overlap width and height of each shape."""
    sizes = torch.tensor(layout.sizes, dtype=torch.float64).to(box.device)
    overlap = 1.0
    for axis, along in ((0, 1), (1, 0)):
        low, high = box[:, axis, None, None], box[:, axis + 2, None, None]
        stride, cells = layout.strides[:, along, None], sizes[:, along, None]
        # Overlap is largest where the centres meet: one of the two cells around that place.
        centred = torch.floor((low + high - anchor[..., axis] - anchor[..., axis + 2]) / (2 * stride))
        widths = []
        for cell in (centred, centred + 1):
            shift = torch.minimum(cell.clamp(min=0), cells - 1) * stride
            widths.append(torch.minimum(anchor[..., axis + 2] + shift, high) - torch.maximum(anchor[..., axis] + shift, low))
        overlap = overlap * torch.maximum(*widths).clamp(min=0)
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
    image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(b) for b in boxes])).to(box.device)
    masks = []
    for (height, width), (sy, sx) in zip(sizes, strides):
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
    """Cells (N, H, W) whose centre lies in the real image, not in the padding; on the host."""
    real = torch.tensor(image_sizes, dtype=torch.float64)
    y = (torch.arange(size[0]) + 0.5) * stride[0]
    x = (torch.arange(size[1]) + 0.5) * stride[1]
    return (y[None, :, None] < real[:, 0, None, None]) & (x[None, None, :] < real[:, 1, None, None])
