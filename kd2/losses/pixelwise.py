"""Pixel-wise distillation (PI): every pixel's class distribution of the student equals the teacher's.

Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019 (arXiv 1903.04197), section
3.1.
Letters: N images, K classes, H x W map.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.losses.logit_checks import check_classes, check_temperature
from kd2.ops.divergence import pixel_divergence
from kd2.ops.precision import wide
from kd2.ops.resize import Resize, check_sizes, same_size


class Pixelwise(nn.Module):
    """``temperature^2 KL(teacher || student)`` over a pixel's classes, averaged, and summed over the tap's maps.

    The default does not depend on the batch size. The authors' code adds the images of its batch of 8 up
    (``REDUCTION: map``), so the WEIGHT 10 of paper and code is 80 here. Several processes: each averages over its own
    pixels; without ``skip_ignored`` and with equal N the mean of the processes is that of the whole batch.

    Forms: released code ``DIVERGENCE: cross_entropy, REDUCTION: map``, before December 2019 with ``LEGACY: True``;
    conference code ``REDUCTION: elements, ENLARGE: 8``.

    Args:
        student, teacher: what the probe saw of the tapped scores, taken before the softmax.
        temperature: above 0.
        divergence: ``cross_entropy`` is KL plus the teacher's entropy: one gradient, but the value never reaches 0.
        reduction: the sum over pixels is divided by the N * H * W ``pixels``, by the H * W of one ``map`` only, or by
            all N * K * H * W ``elements``.
        enlarge: factor by which both maps are interpolated first (bilinear, corners aligned).
        legacy: softmax over runs of K values of the (N, K, H, W) memory, mostly neighboring pixels of one class: a
            mistake of the authors' early code, to reproduce it.
        skip_ignored: leave pixels without a label out, padding and unlabeled images among them; the divisor counts the
            others. A cell takes the label at its center.
        resize: the side whose scores are interpolated when sizes differ.

    Raises:
        ConfigError: a temperature or factor that makes no sense; ``legacy`` with ``skip_ignored``; class counts that
            differ; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        temperature: float = 1.0,
        divergence: Literal["kl", "cross_entropy"] = "kl",
        reduction: Literal["pixels", "map", "elements"] = "pixels",
        enlarge: int = 1,
        legacy: bool = False,
        skip_ignored: bool = False,
        resize: Resize = "none",
    ):
        super().__init__()
        check_temperature(temperature)
        check_classes(student, teacher)
        check_sizes(student, teacher, resize)
        if enlarge < 1:
            raise ConfigError(f"ENLARGE is {enlarge}, expected a whole number above 0")
        if legacy and skip_ignored:
            raise ConfigError("LEGACY and SKIP_IGNORED are both True, but the legacy form has no pixels to leave out")
        self.temperature, self.divergence, self.reduction = temperature, divergence, reduction
        self.enlarge, self.legacy, self.skip_ignored, self.resize = enlarge, legacy, skip_ignored, resize

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps and teacher maps, all (N, K, H, W), at least float32.

        An exact 0 that keeps the graph when all pixels are left out.

        Raises:
            ConfigError: ``skip_ignored`` in a task without labels of pixels.
        """
        with torch.autocast(student[0].device.type, enabled=False):
            return sum(self._map(*same_size(s, t, self.resize), batch_info) for s, t in zip(student, teacher, strict=True))

    def _map(self, student: Tensor, teacher: Tensor, batch_info: BatchInfo) -> Tensor:
        if self.enlarge > 1:
            student, teacher = (self._enlarged(x, wide(student, teacher)) for x in (student, teacher))
        images, classes, height, width = student.shape
        valid = labeled(batch_info, (height, width)) if self.skip_ignored else None
        s, t = (_runs(x) if self.legacy else x.flatten(2) for x in (student, teacher))
        total = pixel_divergence(s, t, valid, self.temperature, self.divergence == "cross_entropy")
        pixels = max(images * height * width, 1) if valid is None else valid.sum().clamp(min=1)
        return total / pixels * {"pixels": 1, "map": images, "elements": 1 / classes}[self.reduction]

    def _enlarged(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return F.interpolate(x.to(dtype), scale_factor=self.enlarge, mode="bilinear", align_corners=True)


def labeled(batch_info: BatchInfo, size: tuple[int, int]) -> Tensor:
    """Where a cell's center has a label: (N, H * W) for a map of ``size`` cells over the padded batch.

    Raises:
        ConfigError: a task without labels of pixels.
    """
    labels = batch_info.labels
    if labels is None or labels.dim() != 3:
        found = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ConfigError(f"SKIP_IGNORED needs labels of pixels, (N, H, W); this task has {found}")
    rows, columns = (
        (2 * torch.arange(cells, device=labels.device) + 1) * pixels // (2 * cells)
        for cells, pixels in zip(size, labels.shape[1:])
    )
    return (labels[:, rows[:, None], columns] != batch_info.ignore_label).flatten(1)


def _runs(x: Tensor) -> Tensor:
    """(1, K, N * H * W): every K consecutive values of the memory of (N, K, H, W) as the classes of one pixel."""
    return x.reshape(1, -1, x.shape[1]).mT


TERM = Pixelwise
