"""Distance of feature maps: the student's map, adapted, equals the teacher's.

``hint`` is hint learning: a middle layer of the student predicts one of the teacher. ``mimic`` is plain feature
mimicking, the baseline that MGD is compared with, under the same normalization.
Sources: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv 1412.6550), section 2.2, eq. 3; Yang et
al., "Masked Generative Distillation", ECCV 2022 (arXiv 2205.01529), section 3, eq. 1.
Letters: N images, L levels, Cs and Ct channels of student and teacher, H x W map.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.losses.adapter import channel_adapter
from kd2.losses.registry import register_loss
from kd2.ops.precision import wide
from kd2.ops.reduction import added, reduced
from kd2.ops.resize import Resize, check_sizes, same_size
from kd2.ops.squared_distance import squared_distance

Reduction = Literal["mean", "sum_per_image", "half_sum_per_image"]
Adapter = Literal["none", "conv1x1", "valid", "halving"]


def feature_distance(student: Tensor, teacher: Tensor, reduction: Reduction) -> Tensor:
    """Squared differences of two maps: their ``mean``, or their sum over N (``sum_per_image``) or 2N.

    ``half_sum_per_image`` is eq. 3 of FitNets averaged over images, ``sum_per_image`` eq. 1 of MGD.

    Args:
        student, teacher: (N, Ct, H, W); compared in at least float32.
    """
    dtype = wide(student, teacher)
    squares = (student.to(dtype) - teacher.to(dtype)).square()
    if reduction == "mean":
        return squares.mean()
    return squares.sum() / (len(teacher) if reduction == "sum_per_image" else 2 * len(teacher))


class FeatureAdapter(nn.Module):
    """What makes a student map (N, Cs, H, W) comparable with the teacher's: a convolution, a norm, a ReLU.

    Args:
        student, teacher: what the probe saw of the two maps.
        kind: see ``FeatureDistance``.
        batch_norm, relu: what follows the convolution.
    """

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec, kind: Adapter, batch_norm: bool, relu: bool):
        super().__init__()
        self.conv = _convolution(student, teacher, kind)
        self.norm = nn.BatchNorm2d(teacher.channels) if batch_norm else nn.Identity()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """The adapted map (N, Ct, h, w)."""
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


@register_loss("hint", default_adapter_lr=5.0, adapter="valid", relu=True, reduction="half_sum_per_image")
@register_loss("mimic", default_adapter_lr=5.0)
class FeatureDistance(nn.Module):
    """``feature_distance`` of the adapted student and the teacher, summed over L levels.

    The usual form of ``hint`` on CIFAR-100 (mdistiller, weight 100) is ``ADAPTER: halving, BATCH_NORM: True, REDUCTION:
    mean``.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        adapter: ``none`` compares the maps as they are. ``conv1x1`` brings the student to the teacher's channels and is
            left out where they agree. ``valid`` is a convolution without padding or stride whose kernel is as large as
            the sizes ask for. ``halving`` takes 3x3 with stride 2 for a student map of twice the size, transposed 4x4
            with stride 2 for half the size, and is ``valid`` otherwise.
        batch_norm: normalize behind the convolution, by the batch's statistics.
        relu: the teacher's non-linearity; true when its tap is behind a ReLU.
        reduction: see ``kd2.ops.reduction``.
        resize: the side that is interpolated when sizes differ; not for ``valid`` and ``halving``, which match them.

    Raises:
        ConfigError: sizes that differ without ``resize``; channels that differ without an adapter; for ``valid`` and
            ``halving`` a student map smaller than the teacher's, and not half of it.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        adapter: Adapter = "conv1x1",
        batch_norm: bool = False,
        relu: bool = False,
        reduction: Reduction = "sum_per_image",
        resize: Resize = "none",
    ):
        super().__init__()
        if adapter in ("none", "conv1x1"):
            check_sizes(student, teacher, resize)
        self.reduction, self.resize = reduction, resize
        pairs = zip(student, teacher, strict=True)
        self.adapters = nn.ModuleList(FeatureAdapter(s, t, adapter, batch_norm, relu) for s, t in pairs)
        self.matches_sizes = adapter in ("valid", "halving")

    @staticmethod
    def conflicts(*, adapter: Adapter, resize: Resize, **_: Any) -> Iterator[str]:
        """What is wrong with options taken together."""
        if adapter in ("valid", "halving") and resize != "none":
            yield f"RESIZE is {resize}, but ADAPTER {adapter} matches the sizes itself; expected RESIZE: none"

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and teacher maps (N, Ct, h, w), at least float32.

        Raises:
            ConfigError: maps whose sizes differ otherwise than the probe's did.
        """
        levels = zip(self.adapters, student, teacher, strict=True)
        return added(self._level(adapter, s, t) for adapter, s, t in levels)

    def _level(self, adapter: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        if not self.matches_sizes:
            student, teacher = same_size(student, teacher, self.resize)
        adapted = adapter(student)
        if adapted.shape != teacher.shape:
            raise ConfigError(f"the adapter gives {tuple(adapted.shape)}, the teacher {tuple(teacher.shape)}")
        images, channels = teacher.shape[:2]
        total = squared_distance(adapted, teacher)
        return reduced(total, self.reduction, images, channels, images * teacher.shape[2:].numel())


def _convolution(student: FeatureSpec, teacher: FeatureSpec, kind: Adapter) -> nn.Module:
    if kind == "none" and student.channels != teacher.channels:
        raise ConfigError(
            f"ADAPTER is none, but the student has {student.channels} channels and the teacher {teacher.channels}"
        )
    if kind in ("none", "conv1x1"):
        return channel_adapter(student, teacher)
    if kind == "halving" and student.size == tuple(2 * t for t in teacher.size):
        return nn.Conv2d(student.channels, teacher.channels, 3, stride=2, padding=1)
    if kind == "halving" and teacher.size == tuple(2 * s for s in student.size):
        return nn.ConvTranspose2d(student.channels, teacher.channels, 4, stride=2, padding=1)
    kernel = tuple(s - t + 1 for s, t in zip(student.size, teacher.size, strict=True))
    if min(kernel) < 1:
        raise ConfigError(f"the student's map {student.size} is smaller than the teacher's {teacher.size}")
    return nn.Conv2d(student.channels, teacher.channels, (kernel[0], kernel[1]))
