"""Values of maps, and of convolutions over maps, at chosen cells only.

Letters: N images, C channels, H x W map, P chosen cells. Cells are int64 indices into a flattened (N, H, W).
"""

import torch
from torch import Tensor, nn

# Above this share of cells one dense convolution is cheaper than a matrix product over gathered patches.
_DENSE_FROM = 0.3


def chosen(mask: Tensor, device: torch.device) -> Tensor:
    """Indices (P,) of the True cells of a mask (N, H, W), on ``device``; no synchronization for one on the host."""
    return mask.flatten().nonzero().squeeze(1).to(device, non_blocking=True)


def at_cells(x: Tensor, cells: Tensor) -> Tensor:
    """Columns (P, C) of the map ``x`` (N, C, H, W) at ``cells`` (P,); the gradient flows to these cells alone."""
    area = x.shape[2] * x.shape[3]
    return x.flatten(2)[cells // area, :, cells % area]


def conv_at_cells(x: Tensor, conv: nn.Conv2d, cells: Tensor) -> Tensor:
    """Output columns (P, C_out) of a stride-1 "same" convolution of ``x`` (N, C, H, W) at ``cells`` (P,).

    Value and gradients equal ``conv(x)`` read at the cells, up to rounding.
    """
    n, channels, height, width = x.shape
    if len(cells) > _DENSE_FROM * n * height * width:
        return at_cells(conv(x), cells)
    kh, kw = conv.kernel_size
    dy = (torch.arange(kh, device=x.device) - kh // 2).repeat_interleave(kw)
    dx = (torch.arange(kw, device=x.device) - kw // 2).repeat(kh)
    image, cell = cells // (height * width), cells % (height * width)
    row, column = (cell // width)[:, None] + dy, (cell % width)[:, None] + dx
    known = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    near = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    patches = x.flatten(2)[image[:, None], :, near].where(known[..., None], 0)
    weight = conv.weight.permute(2, 3, 1, 0).reshape(kh * kw * channels, -1)
    rows = patches.flatten(1)
    return rows @ weight if conv.bias is None else torch.addmm(conv.bias, rows, weight)
