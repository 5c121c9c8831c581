"""Binary cross-entropy of score maps, scaled by how far the two scores are apart, with few temporaries.

Letters: N images, A anchors a cell, K classes, P cells of a map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2.ops.blocks import blocks
from kd2.ops.precision import wide


def scaled_entropy(
    student: Tensor, teacher: Tensor, counted: Tensor, beta: float, anchors: int
) -> tuple[Tensor, Tensor]:
    """``sum counted * BCE(z_s, q) |q - p|^beta`` with p and q the sigmoids of both sides; in at least float32.

    The gradient, also through ``|q - p|``, goes to the student alone. It is taken in the forward pass, a block of cells
    at a time: one map is kept, nothing else of its size is built.

    Args:
        student, teacher: scores (N, A * K, P), channel = anchor * K + class.
        counted: (N, A, P) or (N, 1, P), factor of every anchor, bool or number.
        beta: 0, or 1 or more.
        anchors: A.

    Returns:
        The sum, and ``max_k |q - p|`` (N, A, P) without gradient.
    """
    return _ScaledEntropy.apply(student, teacher, counted, beta, anchors)


class _ScaledEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, counted: Tensor, beta: float, anchors: int
    ) -> tuple[Tensor, Tensor]:
        images, _, cells = student.shape
        slope, dtype = torch.empty_like(student), wide(student, teacher)
        apart = torch.empty(images, anchors, cells, dtype=dtype, device=student.device)
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        for block in blocks(student):
            s, t = (x[:, :, block].to(dtype).unflatten(1, (anchors, -1)) for x in (student, teacher))
            weight = counted[:, :, None, block].to(dtype)
            entropy, gap, gradient = _entropy(s, t, beta)
            total += entropy.mul_(weight).sum(dtype=torch.float64)
            slope[:, :, block] = gradient.mul_(weight).flatten(1, 2)
            apart[:, :, block] = gap.amax(2)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(apart)
        return total.to(dtype), apart

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * gradient, None, None, None, None


def _entropy(s: Tensor, t: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of scores: the scaled entropy, |q - p|, and the slope of the former in the student's."""
    p, q = s.sigmoid(), t.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(s, q, reduction="none")
    error = p - q
    gap = error.abs()
    if beta == 0:
        return entropy, gap, error
    below = gap ** (beta - 1)
    slope = error.sign().mul_(p * (1 - p)).mul_(entropy).mul_(beta).add_(error * gap).mul_(below)
    return entropy.mul_(below * gap), gap, slope
