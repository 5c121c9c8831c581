"""Every sum over a whole map that FGD takes, in one autograd function that keeps the two maps alone.

Letters: N images, C channels, A cells of a map.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kd2.ops.precision import wide

_NAMES = ("error", "gap", "squares", "cells", "channels", "student_context", "teacher_context")


def sums(
    x: Tensor, t: Tensor, weights: Tensor | None, masks: tuple[nn.Linear, nn.Linear] | None, magnitudes: bool
) -> dict[str, Tensor]:
    """Sums over a student map x and a teacher map t, both (N, C, A); gradients go to ``x`` and to the two masks.

    Args:
        x, t: the maps.
        weights: of the channels, w (N, C).
        masks: of student and teacher, linear maps from C channels to one logit a cell.
        magnitudes: whether the means of ``|x|`` are wanted.

    Returns:
        By name, all in at least float32. With ``weights``: ``error`` (N, A), ``sum_c w (x - t)^2``. With ``masks``:
        ``gap`` (N, C), ``sum_a (x - t)``; ``squares``, the scalar ``sum (x - t)^2``; ``student_context`` (N, C),
        ``sum_a softmax_a(mask(x)) x``, and ``teacher_context``, the same of t. With ``magnitudes``: ``cells`` (N, A),
        ``mean_c |x|``, and ``channels`` (N, C), ``mean_a |x|``.
    """
    trained = [p for mask in masks for p in (mask.weight, mask.bias)] if masks else []
    found = _Sums.apply(x, t, weights, magnitudes, *trained)
    return {name: value for name, value in zip(_NAMES, found, strict=True) if value is not None}


def mean_magnitudes(x: Tensor) -> tuple[Tensor, Tensor]:
    """``mean_c |x|`` (N, A) and ``mean_a |x|`` (N, C) of a map (N, C, A), at least float32."""
    magnitude, dtype = x.abs(), wide(x, x)
    return magnitude.mean(1, dtype=dtype), magnitude.mean(2, dtype=dtype)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, t: Tensor, weights: Tensor | None, magnitudes: bool, *trained: Tensor
    ) -> tuple[Tensor | None, ...]:
        """``trained`` is empty, or weight and bias of the student's mask, then of the teacher's."""
        error = gap = squares = cells = channels = student_context = teacher_context = None
        kept: tuple[Tensor, ...] = ()
        with torch.autocast(x.device.type, enabled=False):
            if magnitudes:
                cells, channels = mean_magnitudes(x)
            if trained:
                student_attention, student_context = _pool(x, *trained[:2])
                teacher_attention, teacher_context = _pool(t, *trained[2:])
                kept = (trained[0], student_attention, teacher_attention)
            if weights is not None or trained:
                difference = _difference(x, t)
                gap = difference.sum(2) if trained else None
                squared = difference.square_()
                squares = squared.sum() if trained else None
                error = torch.bmm(weights[:, None], squared)[:, 0] if weights is not None else None
        ctx.save_for_backward(x, t, weights, *kept)
        return error, gap, squares, cells, channels, student_context, teacher_context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        error, gap, squares, cells, channels, student_context, teacher_context = slopes
        x, t, weights, *kept = ctx.saved_tensors
        of_masks: list[Tensor] = []
        with torch.autocast(x.device.type, enabled=False):
            # (x - t) times its factor, then three products of a channel vector and a cell vector, then the signs.
            if error is None and squares is None:
                gradient = torch.zeros_like(x, dtype=cells.dtype)
            else:
                gradient = _difference(x, t).mul_(_factor(weights, error, squares))
            if kept:
                student_weight, student_attention, teacher_attention = kept
                logits, of_student = _pool_backward(x, student_attention, student_context)
                _, of_teacher = _pool_backward(t, teacher_attention, teacher_context)
                of_masks = [*of_student, *of_teacher]
                left = torch.stack([student_weight.expand_as(gap), student_context, gap], 2)
                right = torch.stack([logits, student_attention, torch.ones_like(logits)], 1)
                gradient.baddbmm_(left, right)
            if cells is not None:
                sign = torch.sign(x)
                gradient.addcmul_(sign, (cells / x.shape[1])[:, None])
                gradient.addcmul_(sign, (channels / x.shape[2])[..., None])
        return gradient.to(x.dtype), None, None, None, *of_masks


def _factor(weights: Any, error: Any, squares: Any) -> Tensor:
    """What the gradients of ``error`` and ``squares`` multiply x - t with; one of the two may be None."""
    if error is None:
        return 2 * squares
    focal = weights[..., None], 2 * error[:, None]
    return focal[0] * focal[1] if squares is None else torch.addcmul(2 * squares, *focal)


def _difference(x: Tensor, t: Tensor) -> Tensor:
    dtype = wide(x, t)
    return x - t if x.dtype == dtype else x.to(dtype).sub_(t)


def _pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over cells (N, A) and the map (N, C, A) summed under it (N, C)."""
    x = x.to(weight.dtype)
    attention = (torch.bmm(weight.expand(len(x), 1, -1), x)[:, 0] + bias).softmax(1)
    return attention, torch.bmm(x, attention[..., None])[..., 0]


def _pool_backward(x: Tensor, attention: Tensor, context: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Gradients of the logits (N, A), and of weight (1, C) and bias (1,), from that of the pooled context (N, C)."""
    x = x.to(context.dtype)
    toward = torch.bmm(context[:, None], x)[:, 0]
    logits = attention * (toward - (attention * toward).sum(1, keepdim=True))
    return logits, (torch.bmm(x, logits[..., None]).sum(0).t(), logits.sum((0, 1))[None])
