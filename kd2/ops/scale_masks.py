"""FGD's scale masks: which cells are objects, and how much one cell of a small object weighs.

Letters: N images, M boxes of the fullest image, L levels, H x W map, P positions along all axes of all levels.
Everything is vectorized over boxes and images and never waits for a device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Size = tuple[int, int]

# Boxes that can be told apart by the exponent of a float64, see _foreground.
_RANKS = 1000


def scale_masks(
    boxes: list[Tensor], sizes: list[Size], frames: list[Size], image_sizes: list[Size]
) -> list[tuple[Tensor, Tensor]]:
    """Foreground and background weights of every cell.

    A box covers the columns ``floor(x1 / w * W)`` to ``ceil(x2 / w * W)`` inclusive, rows alike: it is one cell fatter
    to the right and below than its rounded-out extent. Its cells weigh 1 / area, where the area counts rows and columns
    beyond the map too. Where boxes overlap the largest weight, that is the smallest box, wins. Background cells weigh
    1 / their number in that image. All as in the authors' code, except that boxes are first cut to their image (there
    negative coordinates count from the end of the map) and that a box wholly left of or above it is left out.

    Args:
        boxes: N tensors (M_n, 4), x1 y1 x2 y2 in pixels, floating point; M_n may be 0.
        sizes: (H, W) of each level.
        frames: for each image the (h, w) in pixels that the whole map stands for.
        image_sizes: for each image the (h, w) in pixels that its boxes are cut to.

    Returns:
        For each level two masks (N, H, W) on the device of the boxes, in their precision.

    Source: Yang et al., CVPR 2022 (arXiv 2111.11837), section 3.1; the rounding is the authors' code.
    """
    box = pad_sequence(boxes, batch_first=True, padding_value=-1.0)  # a padding row lies outside its image
    levels: list[Tensor] = []
    for part in box.split(_RANKS, 1):
        found = _foreground(part, sizes, frames, image_sizes)
        levels = [torch.maximum(a, b) for a, b in zip(levels, found, strict=True)] if levels else found
    return [(foreground, _background(foreground)) for foreground in levels]


def _background(foreground: Tensor) -> Tensor:
    free = (foreground == 0).to(foreground.dtype)
    return free / free.sum((1, 2), keepdim=True).clamp(min=1)


def _foreground(box: Tensor, sizes: list[Size], frames: list[Size], image_sizes: list[Size]) -> list[Tensor]:
    """L masks (N, H, W) of at most 1000 boxes an image (N, M, 4): 1 / area of the smallest box over every cell, else 0.

    The r-th largest box puts 4^r on its cells and one matrix product adds them up. All smaller powers together stay
    below a third of the next, so the exponent of a cell's sum tells its largest r.
    """
    first, last = _cells(box, sizes, frames, image_sizes)
    extent = last - first + 1
    ordered, order = (extent[..., 0::2] * extent[..., 1::2]).sort(1, descending=True)
    powers = torch.pow(4.0, (order.argsort(1) - 510).double()).unsqueeze(2).unbind(3)
    values = F.pad(1 / ordered, (0, 0, 1, 0)).unbind(2)
    inside = _inside(first, last, sizes).mT.double().split([cells for size in sizes for cells in size], dim=1)
    found = []
    for rows, columns, power, value in zip(inside[0::2], inside[1::2], powers, values, strict=True):
        total = rows @ (columns.mT * power)
        # A float64 has 52 bits of mantissa, then its exponent plus 1023. Half of that is r + 1; of a zero it is 0.
        winner = total.view(torch.int64) >> 53
        found.append(value.gather(1, winner.flatten(1)).view(total.shape))
    return found


def _cells(box: Tensor, sizes: list[Size], frames: list[Size], image_sizes: list[Size]) -> tuple[Tensor, Tensor]:
    """First and last cell, both (N, M, 2L): y and x of each level in turn; whole numbers in the precision of the boxes.

    A box outside its image gets a last cell of -1.
    """
    bound, frame = (box.new_tensor(sides)[:, None] for sides in (image_sizes, frames))
    cells = box.new_tensor(sizes)
    low, high = box[..., :2].flip(2), box[..., 2:].flip(2)
    outside = (high < 0).any(2, keepdim=True)
    low, high = (((edge.clamp(min=0).minimum(bound) / frame).unsqueeze(2) * cells).flatten(2) for edge in (low, high))
    return low.floor(), high.ceil().masked_fill(outside, -1)


def _inside(first: Tensor, last: Tensor, sizes: list[Size]) -> Tensor:
    """Whether a position is between first and last of its axis: (N, M, 2L) to (N, M, P)."""
    lengths = [cells for size in sizes for cells in size]
    length, total = torch.tensor(lengths), sum(lengths)
    start = (length.cumsum(0) - length).repeat_interleave(length, output_size=total)
    position = (torch.arange(total) - start).to(first.device)
    axis = torch.arange(len(lengths)).repeat_interleave(length, output_size=total).to(first.device)
    return (position >= first.index_select(2, axis)) & (position <= last.index_select(2, axis))
