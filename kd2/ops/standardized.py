"""Squared distance of standardized channels, from sums alone: no standardized map is made or kept."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2.ops.precision import wide

_CHANNEL = (0, 2, 3)


def standardized_distance(a: Tensor, b: Tensor, region: Tensor | None, eps: float, min_std: float) -> Tensor:
    """``kd2.losses.pkd.pearson_distance`` with the gradient to ``a`` alone, in at least float32.

    For the backward pass it keeps the two maps as they are and nothing else of their size.

    Args:
        a, b: (N, C, H, W).
        region: factors 0 and 1 (N, 1, H, W); None counts every cell.
        eps: is added to every standard deviation.
        min_std: channels of ``a`` whose deviation is not above count as 0, without gradient.
    """
    return _StandardizedDistance.apply(a, b, region, eps, min_std)


class _StandardizedDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, region: Tensor | None, eps: float, min_std: float) -> Tensor:
        count = _count(a, region)
        u, v = _centered(a, b, region, count), _centered(b, a, region, count)
        uu, vv, uv = _dot(u, u), _dot(v, v), _dot(u, v)
        std, scale = _scales(uu, count, eps)
        scale = torch.where(std > min_std, scale, 0.0) if min_std else scale
        other = _scales(vv, count, eps)[1]
        total = uu * scale**2 + vv * other**2 - 2 * uv * scale * other
        # d total / 2 = along * u + across * v; the deviation of ``a`` depends on u too, but not where it is 0.
        slope = scale**2 * (uu * scale - uv * other) / ((count - 1).clamp(min=1) * std)
        along, across = scale**2 - torch.where(std > 0, slope, 0.0), -scale * other
        ctx.save_for_backward(a, b, region, torch.stack([along, across]) / (len(along) * count.clamp(min=1)), count)
        return total.sum() / (2 * len(total) * count.clamp(min=1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        a, b, region, factors, count = ctx.saved_tensors
        along, across = (gradient * factors)[:, None, :, None, None].unbind()
        found = _centered(a, b, region, count).mul_(along).addcmul_(_centered(b, a, region, count), across)
        return found.to(a.dtype), None, None, None, None


def _count(x: Tensor, region: Tensor | None) -> Tensor:
    """How many cells of the batch count; on the device, where nobody waits for it."""
    cells = x.shape[0] * x.shape[2:].numel()
    return torch.full((), float(cells), device=x.device) if region is None else region.sum().float()


def _centered(x: Tensor, like: Tensor, region: Tensor | None, count: Tensor) -> Tensor:
    x = x.to(wide(x, like))
    if region is None:
        return x - x.mean(_CHANNEL, keepdim=True) if x.numel() else x.clone()
    x = x * region
    return x.sub_(x.sum(_CHANNEL, keepdim=True) / count.clamp(min=1)).mul_(region)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return torch.linalg.vecdot(u.flatten(2), v.flatten(2)).sum(0)


def _scales(squares: Tensor, count: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    std = (squares / (count - 1).clamp(min=1)).sqrt()
    return std, 1 / (std + eps)
