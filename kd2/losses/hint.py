"""Hint learning: a middle layer of the student predicts one of the teacher.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv 1412.6550), section 2.2, eq. 3.
Letters: N images, L levels, Cs and Ct channels of student and teacher.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.ops.squared_distance import squared_distance

Reduction = Literal["half_sum_per_image", "mean"]
Kernel = Literal["valid", "halving"]


def hint_loss(student: Tensor, teacher: Tensor, reduction: Reduction = "half_sum_per_image") -> Tensor:
    """Squared distance of two maps (N, C, H, W) of equal shape, in at least float32; the gradient goes to the student.

    ``half_sum_per_image`` is eq. 3 averaged over images, ``1/(2N) sum (s - t)^2``; ``mean`` averages over every element.
    """
    count = teacher.numel() if reduction == "mean" else 2 * len(teacher)
    return squared_distance(student, teacher) / max(count, 1)


class Hint(nn.Module):
    """A convolutional regressor a level, which also matches the sizes.

    The usual form on CIFAR-100 (mdistiller, weight 100) is KERNEL halving, BATCH_NORM True, REDUCTION mean.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        kernel: ``valid`` has no padding or stride and a kernel as large as the sizes ask for. ``halving`` takes 3x3
            with stride 2 for a student map of twice the size, transposed 4x4 with stride 2 for half the size, and is
            ``valid`` otherwise.
        batch_norm: normalize behind the convolution, by the batch's statistics.
        relu: the teacher's non-linearity; true when its tap is behind a ReLU.
        reduction: see ``hint_loss``.

    Raises:
        ConfigError: a student map smaller than the teacher's, and not half of it under ``halving``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        kernel: Kernel = "valid",
        batch_norm: bool = False,
        relu: bool = True,
        reduction: Reduction = "half_sum_per_image",
    ):
        super().__init__()
        self.relu, self.reduction = relu, reduction
        self.regressors = nn.ModuleList(_regressor(s, t, kernel) for s, t in zip(student, teacher))
        self.norms = nn.ModuleList(nn.BatchNorm2d(t.channels) if batch_norm else nn.Identity() for t in teacher)

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss, summed over L student maps (N, Cs, H, W) and teacher maps (N, Ct, h, w)."""
        total = 0.0
        for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
            adapted = self.adapted(s, level)
            if adapted.shape != t.shape:
                raise ConfigError(f"the regressor gives {tuple(adapted.shape)}, the teacher {tuple(t.shape)}")
            total = total + hint_loss(adapted, t, self.reduction)
        return total

    def adapted(self, x: Tensor, level: int) -> Tensor:
        """What a student map (N, Cs, H, W) is compared as, (N, Ct, h, w)."""
        x = self.norms[level](self.regressors[level](x))
        return F.relu(x) if self.relu else x


def _regressor(student: FeatureSpec, teacher: FeatureSpec, kind: Kernel) -> nn.Module:
    if kind == "halving" and student.size == tuple(2 * t for t in teacher.size):
        return nn.Conv2d(student.channels, teacher.channels, 3, stride=2, padding=1)
    if kind == "halving" and teacher.size == tuple(2 * s for s in student.size):
        return nn.ConvTranspose2d(student.channels, teacher.channels, 4, stride=2, padding=1)
    kernel = tuple(s - t + 1 for s, t in zip(student.size, teacher.size))
    if min(kernel) < 1:
        raise ConfigError(f"the student's map {student.size} is smaller than the teacher's {teacher.size}")
    return nn.Conv2d(student.channels, teacher.channels, kernel)


TERM = Hint
