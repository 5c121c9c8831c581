"""Hint learning: a middle layer of the student predicts one of the teacher.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv 1412.6550), section 2.2, eq. 3.
Letters: N images, L levels, Cs and Ct channels of student and teacher.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.core import ConfigError, MapSpec, Scene

Reduction = Literal["half_sum_per_image", "mean"]


def hint_loss(student: Tensor, teacher: Tensor, reduction: Reduction = "half_sum_per_image") -> Tensor:
    """Squared distance of two maps (N, C, H, W) of equal shape, in at least float32.

    ``half_sum_per_image`` is eq. 3 averaged over images, ``1/(2N) sum (s - t)^2``; ``mean`` averages over every element.
    """
    wide = torch.promote_types(teacher.dtype, torch.float32)
    squares = (student.to(wide) - teacher.to(wide)).square()
    return squares.mean() if reduction == "mean" else squares.sum() / (2 * max(len(teacher), 1))


class Hint(nn.Module):
    """A convolutional regressor a level, without padding or stride, whose kernel also matches the sizes.

    Args:
        student, teacher: what the rehearsal saw of the tapped levels.
        relu: the teacher's non-linearity; true when its tap is behind a ReLU.
        reduction: see ``hint_loss``.

    Raises:
        ConfigError: a student map smaller than the teacher's.
    """

    def __init__(
        self,
        student: list[MapSpec],
        teacher: list[MapSpec],
        *,
        relu: bool = True,
        reduction: Reduction = "half_sum_per_image",
    ):
        super().__init__()
        self.relu, self.reduction = relu, reduction
        self.regressors = nn.ModuleList(_regressor(s, t) for s, t in zip(student, teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor], scene: Scene) -> Tensor:
        """The unweighted loss, summed over L student maps (N, Cs, H, W) and teacher maps (N, Ct, h, w)."""
        total = 0.0
        for regressor, s, t in zip(self.regressors, student, teacher):
            adapted = regressor(s)
            if adapted.shape != t.shape:
                raise ConfigError(f"hint: the regressor gives {tuple(adapted.shape)}, the teacher {tuple(t.shape)}")
            total = total + hint_loss(F.relu(adapted) if self.relu else adapted, t, self.reduction)
        return total


def _regressor(student: MapSpec, teacher: MapSpec) -> nn.Conv2d:
    kernel = tuple(s - t + 1 for s, t in zip(student.size, teacher.size))
    if min(kernel) < 1:
        raise ConfigError(f"hint: the student's map {student.size} is smaller than the teacher's {teacher.size}")
    return nn.Conv2d(student.channels, teacher.channels, kernel)


TERM = Hint
