"""Divergence of two class distributions in every pixel, without a map of probabilities kept in memory.

Letters: N images, K classes, P pixels of a map.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2.terms._precision import wide

# Scores that are worked on at once: on the CPU half a MiB, which one core's cache still serves.
_AT_ONCE = {"cpu": 1 << 17}
_AT_ONCE_ELSEWHERE = 1 << 20


def pixel_divergence(
    student: Tensor, teacher: Tensor, valid: Tensor | None, temperature: float, cross_entropy: bool
) -> Tensor:
    """``temperature^2 sum KL(teacher || student)`` over pixels, of the softmax over classes; in at least float32.

    The gradient, temperature * (softmax(student) - softmax(teacher)), goes to the student alone. For the backward pass
    the two maps are kept as they are and nothing else of their size.

    Args:
        student, teacher: scores (N, K, P), any strides.
        valid: (N, P), True where a pixel counts; None counts all.
        cross_entropy: the teacher's entropy on top: the same gradient.
    """
    return _PixelDivergence.apply(student, teacher, valid, temperature, cross_entropy)


class _PixelDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, valid: Tensor | None, temperature: float, cross_entropy: bool):
        ctx.save_for_backward(student, teacher, valid)
        ctx.temperature = temperature
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        for pixels in _blocks(student):
            s, t = _log_softmax(student, teacher, pixels, temperature)
            target = t.exp()
            pixel = (s.neg_() if cross_entropy else t.sub_(s)).mul_(target).sum(1)
            if valid is not None:
                pixel.masked_fill_(~valid[:, pixels], 0)
            total += pixel.sum(dtype=torch.float64)
        return (temperature**2 * total).to(wide(student, teacher))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, valid = ctx.saved_tensors
        slope = torch.empty(student.shape, dtype=student.dtype, device=student.device)
        factor = gradient * ctx.temperature
        for pixels in _blocks(student):
            s, t = _log_softmax(student, teacher, pixels, ctx.temperature)
            block = s.exp_().sub_(t.exp_()).mul_(factor)
            if valid is not None:
                block.masked_fill_(~valid[:, None, pixels], 0)
            slope[:, :, pixels] = block
        return slope, None, None, None, None


def _log_softmax(student: Tensor, teacher: Tensor, pixels: slice, temperature: float) -> Iterator[Tensor]:
    dtype = wide(student, teacher)
    for x in (student, teacher):
        block = x[:, :, pixels].to(dtype)
        yield (block if temperature == 1 else block / temperature).log_softmax(1)


def _blocks(x: Tensor) -> Iterator[slice]:
    """Slices of the pixels of (N, K, P)."""
    images, classes, pixels = x.shape
    step = max(_AT_ONCE.get(x.device.type, _AT_ONCE_ELSEWHERE) // max(images * classes, 1), 1)
    for first in range(0, pixels, step):
        yield slice(first, first + step)
