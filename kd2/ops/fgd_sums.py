"""Every sum over a whole map that FGD takes, in one autograd function that keeps the two maps alone.

Letters: N images, C channels, A cells of a map.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kd2.ops.precision import wide


class Sums(NamedTuple):
    """Of a student map x and a teacher map t, both (N, C, A), and channel weights w (N, C), all at least float32.

    Attributes:
        error: (N, A) ``sum_c w (x - t)^2``; None without w.
        gap: (N, C) ``sum_a (x - t)``; this and the next one are None without masks, as are the contexts.
        squares: scalar ``sum (x - t)^2``.
        cells: (N, A) ``mean_c |x|``; None unless asked for, like the next one.
        channels: (N, C) ``mean_a |x|``.
        student_context, teacher_context: (N, C) ``sum_a softmax_a(mask(x)) x`` and the same of t.
    """

    error: Tensor | None
    gap: Tensor | None
    squares: Tensor | None
    cells: Tensor | None
    channels: Tensor | None
    student_context: Tensor | None
    teacher_context: Tensor | None


def sums(
    x: Tensor, t: Tensor, weights: Tensor | None, masks: tuple[nn.Linear, nn.Linear] | None, magnitudes: bool
) -> Sums:
    """The sums above; gradients go to ``x`` and to the two masks, linear maps from C channels to one logit a cell."""
    trained = [p for mask in masks for p in (mask.weight, mask.bias)] if masks else [None] * 4
    return Sums(*_Sums.apply(x, t, weights, *trained, magnitudes))


def mean_magnitudes(x: Tensor) -> tuple[Tensor, Tensor]:
    """``mean_c |x|`` (N, A) and ``mean_a |x|`` (N, C) of a map (N, C, A), at least float32."""
    magnitude, dtype = x.abs(), wide(x, x)
    return magnitude.mean(1, dtype=dtype), magnitude.mean(2, dtype=dtype)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        t: Tensor,
        weights: Tensor | None,
        student_weight: Tensor | None,
        student_bias: Tensor | None,
        teacher_weight: Tensor | None,
        teacher_bias: Tensor | None,
        magnitudes: bool,
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(x.device.type, enabled=False):
            error = gap = squares = cells = channels = None
            student_attention = student_context = teacher_attention = teacher_context = None
            if magnitudes:
                cells, channels = mean_magnitudes(x)
            if student_weight is not None:
                student_attention, student_context = _pool(x, student_weight, student_bias)
                teacher_attention, teacher_context = _pool(t, teacher_weight, teacher_bias)
            if weights is not None or student_weight is not None:
                difference = _difference(x, t)
                gap = difference.sum(2) if student_weight is not None else None
                squared = difference.square_()
                squares = squared.sum() if student_weight is not None else None
                error = torch.bmm(weights[:, None], squared)[:, 0] if weights is not None else None
            ctx.save_for_backward(x, t, weights, student_weight, teacher_weight, student_attention, teacher_attention)
            return error, gap, squares, cells, channels, student_context, teacher_context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        error, gap, squares, cells, channels, student_context, teacher_context = slopes
        x, t, weights, student_weight, teacher_weight, student_attention, teacher_attention = ctx.saved_tensors
        student_masks = teacher_masks = (None, None)
        with torch.autocast(x.device.type, enabled=False):
            # (x - t) times its factor, then three products of a channel vector and a cell vector, then the signs.
            if error is None and squares is None:
                gradient = torch.zeros_like(x, dtype=cells.dtype)
            else:
                gradient = _difference(x, t).mul_(_factor(weights, error, squares))
            if squares is not None:
                logits, student_masks = _pool_backward(x, student_attention, student_context)
                _, teacher_masks = _pool_backward(t, teacher_attention, teacher_context)
                left = torch.stack([student_weight.expand_as(gap), student_context, gap], 2)
                right = torch.stack([logits, student_attention, torch.ones_like(logits)], 1)
                gradient.baddbmm_(left, right)
            if cells is not None:
                sign = torch.sign(x)
                gradient.addcmul_(sign, (cells / x.shape[1])[:, None])
                gradient.addcmul_(sign, (channels / x.shape[2])[..., None])
        return gradient.to(x.dtype), None, None, *student_masks, *teacher_masks, None


def _factor(weights: Tensor | None, error: Tensor | None, squares: Tensor | None) -> Tensor:
    """What the gradients of ``error`` and ``squares``, of one at least, multiply x - t with."""
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
