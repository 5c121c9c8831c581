"""What libraries do to pixels around a network, as sums and products that every exported format has.

Letters: N images, H x W pixels, M masks of m x m cells. Sizes may be numbers or, while a graph is recorded, tensors.
"""

import torch
from torch import Tensor

Side = int | Tensor


def resized(images: Tensor, height: Side, width: Side) -> Tensor:
    """Images (N, C, H, W) of 8-bit values brought to ``height`` x ``width``, float32, rounded to whole values.

    Bilinear with antialiasing, first along the rows as Pillow does it. So Detectron2's, torchvision's and kd2's own
    resizing of 8-bit pictures are met but for values halfway between two levels, which they round in other ways.

    Weights and sums are whole numbers, exact in float32 up to 2^24 (12,000 pixels brought to 4,400, or 6,000 to 1,100),
    so that no order of summation decides such a value: a file finds the pixels that PyTorch finds.
    """
    across, total = _shares(images.shape[-1], width, images.device)
    rows = _rounded_ratio(images.float() @ across.T, total)
    down, total = _shares(images.shape[-2], height, images.device)
    return _rounded_ratio(down @ rows, total[:, None])


def shortest_side(images: Tensor, shortest: int, longest: int) -> Tensor:
    """Images brought to a shorter side of ``shortest`` pixels, the other at most ``longest``; as they are for 0."""
    if not shortest:
        return images.float()
    height, width = sides(images)
    small, large = torch.minimum(height, width), torch.maximum(height, width)
    limited = shortest * large > longest * small
    new_small = torch.where(limited, _ratio(longest, small, large), torch.full_like(small, shortest))
    new_large = torch.where(limited, torch.full_like(large, longest), _ratio(shortest, large, small))
    return resized(
        images, torch.where(height < width, new_small, new_large), torch.where(height < width, new_large, new_small)
    )


def sides(images: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of images (..., H, W) as whole numbers that a recorded graph computes anew."""
    return torch.as_tensor(images.shape[-2]), torch.as_tensor(images.shape[-1])


def pasted(masks: Tensor, boxes: Tensor, height: Side, width: Side) -> Tensor:
    """Masks (M, m, m) inside boxes (M, 4), x1 y1 x2 y2 in pixels, as (M, H, W); 0 outside.

    Bilinear between the centers of the cells, read at the centers of the pixels, as by Detectron2.
    """
    down = _inside(boxes[:, 1], boxes[:, 3], masks.shape[1], height)
    across = _inside(boxes[:, 0], boxes[:, 2], masks.shape[2], width)
    return down @ masks @ across.transpose(1, 2)


def _inside(start: Tensor, end: Tensor, cells: int, length: Side) -> Tensor:
    """(M, length, cells): the weight of each cell at each pixel."""
    pixels = torch.arange(length, device=start.device).float() + 0.5
    position = (pixels - start[:, None]) / (end - start)[:, None] * cells - 0.5
    return (1 - (position[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)


def _shares(old: Side, new: Side, device: torch.device) -> tuple[Tensor, Tensor]:
    """(new, old): how much of each old pixel is in each new one, in whole numbers; (new,): their sums."""
    old, new = torch.as_tensor(old, device=device), torch.as_tensor(new, device=device)
    centers, pixels = (2 * torch.arange(size, device=device) + 1 for size in (new, old))  # in halves of a pixel
    apart = (pixels * new - centers[:, None] * old).abs()
    shares = (2 * torch.maximum(old, new) - apart).clamp(min=0).float()
    return shares, shares.sum(1)


def _rounded_ratio(up: Tensor, down: Tensor) -> Tensor:
    """up / down of whole numbers to the nearest whole number, halves upward, even where the division is not exact."""
    below = (up / down).floor()
    return below + (2 * (up - below * down) >= down).float()


def _ratio(side: int, up: Tensor, down: Tensor) -> Tensor:
    """side * up / down to the nearest whole number, in whole numbers: no rounding of floats decides it."""
    return (2 * side * up + down) // (2 * down)
