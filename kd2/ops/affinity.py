"""Squared distance of two affinity graphs: which nodes of a map resemble each other.

An affinity is the dot product of two nodes, so the graph of nodes S (C, n) is ``S^T S``.
Letters: N images, Cs and Ct channels of student and teacher, n nodes, h x w their grid.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Size = tuple[int, int]
# Value in float64, and the student's gradient where it is wanted.
Found = tuple[Tensor, Tensor | None]
Way = Callable[[Tensor, Tensor, bool], Found]


def graph_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum (S^T S - T^T T)^2`` over all pairs of nodes of an image, and over images. The gradient goes to the student.

    Of two exact ways it takes the one with fewer products: the n x n graph itself, or channel Grams, since
    ``|S^T S - T^T T|^2 = |S S^T|^2 + |T T^T|^2 - 2 |S T^T|^2``. The second one holds nothing of n x n, but its value
    loses digits where the graphs nearly agree (2e-4 of it at 3e-5 of the mean square, in float32).

    Args:
        student: (N, Cs, n).
        teacher: (N, Ct, n), of the same precision.
    """
    cs, ct, n = student.shape[1], teacher.shape[1], student.shape[2]
    by_grams = 2 * cs * cs + 2 * cs * ct + ct * ct < n * (2 * cs + ct)
    return _Distance.apply(student, teacher, _by_grams if by_grams else _by_nodes)


def local_graph_distance(student: Tensor, teacher: Tensor, reach: int) -> Tensor:
    """The same over pairs of nodes at most ``reach`` apart (Chebyshev distance), in time and memory of those pairs.

    Args:
        student: (N, Cs, h, w).
        teacher: (N, Ct, h, w), of the same precision.
    """

    def way(s: Tensor, t: Tensor, wanted: bool) -> Found:
        return _by_shifts(s, t, wanted, reach)

    return _Distance.apply(student, teacher, way)


def connections(size: Size, reach: int) -> int:
    """Ordered pairs of nodes of an h x w grid at most ``reach`` apart, a node with itself included."""
    rows, columns = (sum(min(i + reach, cells - 1) - max(i - reach, 0) + 1 for i in range(cells)) for cells in size)
    return rows * columns


class _Distance(torch.autograd.Function):
    """Takes the gradient in the forward pass: it needs the same products, and one map of the student's size is kept."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, way: Way) -> Tensor:
        value, slope = way(student, teacher, ctx.needs_input_grad[0])
        ctx.save_for_backward(slope)
        return value.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient, None, None


def _by_grams(s: Tensor, t: Tensor, wanted: bool) -> Found:
    ss, st = s @ s.mT, s @ t.mT
    value = (_squares(ss) + _squares(t @ t.mT) - 2 * _squares(st)).clamp(min=0)
    return value, (ss @ s).baddbmm_(st, t, beta=4, alpha=-4) if wanted else None


def _by_nodes(s: Tensor, t: Tensor, wanted: bool) -> Found:
    error = (s.mT @ s).baddbmm_(t.mT, t, alpha=-1)
    return _squares(error), (s @ error).mul_(4) if wanted else None


def _by_shifts(s: Tensor, t: Tensor, wanted: bool, reach: int) -> Found:
    value = torch.zeros((), dtype=torch.float64, device=s.device)
    slope = torch.zeros_like(s) if wanted else None
    for here, there, times in _pairs((s.shape[2], s.shape[3]), reach):
        a, b = s[here], s[there]
        error = (a * b).sum(1, keepdim=True).sub_((t[here] * t[there]).sum(1, keepdim=True))
        value += times * _squares(error)
        if slope is not None:
            slope[here].addcmul_(error, b, value=2 * times)
            slope[there].addcmul_(error, a, value=2 * times)
    return value, slope


def _pairs(size: Size, reach: int) -> Iterator[tuple[tuple, tuple, int]]:
    """Two equal windows of (N, C, h, w) for each shift of the lower half plane, and the directions it stands for."""
    height, width = size
    for y in range(min(reach, height - 1) + 1):
        for x in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            if (y, x) >= (0, 0):
                left, right = max(-x, 0), max(x, 0)
                here = (..., slice(0, height - y), slice(left, width - right))
                yield here, (..., slice(y, height), slice(right, width - left)), 1 if x == y == 0 else 2


def _squares(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dtype=torch.float64).square()
