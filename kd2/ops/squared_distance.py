"""Squared distance of two maps, without a map of squares in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2.ops.precision import wide


def squared_distance(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """``sum (a - b)^2`` in at least float32, whatever the maps' precision; the gradient goes to ``a`` alone.

    For the backward pass it keeps the two maps as they are and nothing else of their size.

    Args:
        a, b: equal shapes, any strides.
        region: factors 0 and 1 that broadcast over them; None counts every element.
    """
    return _SquaredDistance.apply(a, b, region)


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, region: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b, region)
        return _difference(a, b, region).square_().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        a, b, region = ctx.saved_tensors
        return _difference(a, b, region).mul_(2 * gradient).to(a.dtype), None, None


def _difference(a: Tensor, b: Tensor, region: Tensor | None) -> Tensor:
    dtype = wide(a, b)
    difference = a - b if a.dtype == dtype else a.to(dtype).sub_(b)
    return difference if region is None else difference.mul_(region)
