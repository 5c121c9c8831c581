"""Divergence of two class distributions in every pixel, in the scores' own layout and with few temporaries.

Letters: N images, K classes, P pixels of a map; or N images, K cells, P channels, for distributions over the cells.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2.ops.blocks import blocks
from kd2.ops.precision import wide


def pixel_divergence(
    student: Tensor, teacher: Tensor, valid: Tensor | None, temperature: float, cross_entropy: bool
) -> Tensor:
    """``temperature^2 sum KL(teacher || student)`` over pixels, of the softmax over classes; in at least float32.

    The gradient, temperature * (softmax(student) - softmax(teacher)), goes to the student alone. It is taken in the
    forward pass, which needs the same exponentials, a block of pixels at a time: one map is kept, nothing else of its
    size is built.

    Args:
        student, teacher: scores (N, K, P), any strides.
        valid: (N, P), True where a pixel counts; None counts all.
        cross_entropy: the teacher's entropy on top: the same gradient.
    """
    return _PixelDivergence.apply(student, teacher, valid, temperature, cross_entropy)


class _PixelDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, valid: Tensor | None, temperature: float, cross_entropy: bool
    ) -> Tensor:
        slope = torch.empty_like(student)
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        for pixels in blocks(student):
            s, t = (_below_zero(x, pixels, temperature, wide(student, teacher)) for x in (student, teacher))
            error = -s if cross_entropy else t - s
            sums, target_sums = (x.exp_().sum(1, keepdim=True) for x in (s, t))
            pixel = error.mul_(t.div_(target_sums)).sum(1, keepdim=True)
            pixel += (sums if cross_entropy else sums / target_sums).log()
            difference = torch.sub(s.div_(sums), t, out=slope[:, :, pixels])
            if valid is not None:
                left_out = ~valid[:, None, pixels]
                pixel.masked_fill_(left_out, 0)
                difference.masked_fill_(left_out, 0)
            total += pixel.sum(dtype=torch.float64)
        ctx.save_for_backward(slope)
        ctx.temperature = temperature
        return (temperature**2 * total).to(wide(student, teacher))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * (ctx.temperature * gradient), None, None, None, None


def _below_zero(x: Tensor, pixels: slice, temperature: float, dtype: torch.dtype) -> Tensor:
    """Scores of a block over the temperature, a new tensor; the highest of each pixel is moved to 0."""
    block = x[:, :, pixels].to(dtype)
    block = block - block.amax(1, keepdim=True)
    return block if temperature == 1 else block.div_(temperature)
