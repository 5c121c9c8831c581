"""Distillation of class scores: the student's softened distributions equal the teacher's.

``logits`` is classic distillation of a classifier, beside the labels' own loss, and alone on consistent views it is
function matching; on maps every pixel is a sample. ``pixelwise`` is the same with the forms of structured distillation.
``channel_kd`` compares where in the image each class is.
Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531); Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent", CVPR 2022 (arXiv 2106.05237), section 3; Liu et al.,
"Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019 (arXiv 1903.04197), section 3.1; Shu et al.,
"Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021 (arXiv 2011.13256), eq. 4.
Letters: N images, K classes, H x W map (1 x 1 for a classifier's (N, K) logits), P pixels of a map.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import Count, Positive
from kd2.losses.logit_checks import check_classes, refuse_boxes, refuse_one_class, softened
from kd2.losses.registry import register_loss
from kd2.ops.divergence import pixel_divergence
from kd2.ops.masks import image_region
from kd2.ops.precision import wide
from kd2.ops.reduction import added, reduced
from kd2.ops.resize import Resize, check_sizes, same_size

Softmax = Literal["classes", "cells", "memory_runs"]


def divergences(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``temperature^2 KL(teacher || student)`` over the classes of each sample or pixel.

    Args:
        student, teacher: scores before the softmax, (N, K) or (N, K, H, W); computed in at least float32.
        temperature: divides the scores; above 0.

    Returns:
        (N,) or (N, H, W).
    """
    s, t = (x.log_softmax(1) for x in softened(student, teacher, temperature))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


def cross_entropies(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``divergences`` and the teacher's entropy on top: the same gradient, but the value never reaches 0."""
    s, t = softened(student, teacher, temperature)
    return -(t.softmax(1) * s.log_softmax(1)).sum(1) * temperature**2


def channel_divergences(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``temperature^2 KL(teacher || student)`` of each class map's softmax over its H * W cells.

    Args:
        student, teacher: scores (N, K, H, W); computed in at least float32.
        temperature: divides the scores; above 0.

    Returns:
        (N, K).
    """
    return divergences(student.flatten(2).mT, teacher.flatten(2).mT, temperature)


@register_loss("channel_kd", softmax="cells", reduction="channel_mean", temperature=4.0)
@register_loss("pixelwise")
@register_loss("logits")
class KLDivergence(nn.Module):
    """The divergences of all distributions, reduced to one number, and summed over the tap's maps.

    For classic distillation give the student's own loss and this loss their weights (0.1 and 0.9 at temperature 4 on
    CIFAR-100, 0.5 and 0.5 at 1 on ImageNet). Function matching has weight 1 and no other loss. MGD's segmentation
    recipes add ``channel_kd`` with weight 3 and temperature 4.

    The default does not depend on the batch size. The authors' pixel-wise code adds the images of its batch of 8 up
    (``REDUCTION: map_mean``), so the WEIGHT 10 of paper and code is 80 here. Its forms: released code ``DIVERGENCE:
    cross_entropy, REDUCTION: map_mean``, before December 2019 with ``SOFTMAX: memory_runs``; conference code
    ``REDUCTION: mean, ENLARGE: 8``.

    Several processes: each averages over its own pixels. With equal N, and no pixel left out, the mean of the processes
    is that of the whole batch.

    Args:
        student, teacher: what the probe saw of the tapped scores, taken before the softmax; the classes in one order.
        temperature: divides the scores; the loss is multiplied by its square.
        softmax: what one distribution is over: the ``classes`` of a pixel; the ``cells`` of a class map; or
            ``memory_runs``, runs of K values of the (N, K, H, W) memory, mostly neighboring pixels of one class: a
            mistake of the authors' early code, to reproduce it.
        divergence: ``cross_entropy`` is ``kl`` plus the teacher's entropy: one gradient, but the value never reaches 0.
        reduction: see ``kd2.ops.reduction``.
        enlarge: factor by which both maps are interpolated first (bilinear, corners aligned).
        clip_to_image: leave pixels over batch padding out. A classifier's one cell always counts.
        skip_ignored: leave pixels without a label out, padding and unlabeled images among them; the mean is over the
            others. A cell takes the label at its center.
        resize: the side whose scores are interpolated when sizes differ.

    Raises:
        ConfigError: class counts that differ, or are 1 with a softmax over ``classes``; maps of boxes among the scores;
            sizes that differ without ``resize``.
    """

    over_classes = True

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        temperature: Positive = 1.0,
        softmax: Softmax = "classes",
        divergence: Literal["kl", "cross_entropy"] = "kl",
        reduction: Literal["pixel_mean", "channel_mean", "map_mean", "mean"] = "pixel_mean",
        enlarge: Count = 1,
        clip_to_image: bool = False,
        skip_ignored: bool = False,
        resize: Resize = "none",
    ):
        super().__init__()
        check_classes(student, teacher)
        refuse_boxes(student)
        if softmax == "classes":
            refuse_one_class(student)
        check_sizes(student, teacher, resize)
        self.temperature, self.softmax, self.divergence, self.reduction = temperature, softmax, divergence, reduction
        self.enlarge, self.resize = enlarge, resize
        self.clip_to_image, self.skip_ignored = clip_to_image, skip_ignored
        self.needs = frozenset(["sizes"] * clip_to_image + ["labels"] * skip_ignored)

    @staticmethod
    def conflicts(*, softmax: Softmax, clip_to_image: bool, skip_ignored: bool, **_: Any) -> Iterator[str]:
        """What is wrong with options taken together."""
        if softmax != "classes" and (clip_to_image or skip_ignored):
            yield f"SOFTMAX is {softmax}, it has no pixels for CLIP_TO_IMAGE or SKIP_IGNORED to leave out"

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps and teacher maps, all (N, K, H, W), at least float32.

        It is an exact 0 that keeps the graph when all pixels are left out.

        Raises:
            ConfigError: ``skip_ignored`` with labels that are not those of pixels.
        """
        with torch.autocast(student[0].device.type, enabled=False):
            pairs = [same_size(s, t, self.resize) for s, t in zip(student, teacher, strict=True)]
            return added(self._level(s, t, batch_info) for s, t in pairs)

    def _level(self, student: Tensor, teacher: Tensor, batch_info: BatchInfo) -> Tensor:
        if self.enlarge > 1:
            student, teacher = (self._enlarged(x, wide(student, teacher)) for x in (student, teacher))
        images, classes, height, width = student.shape
        counted = self._counted(student, batch_info)
        s, t = (self._distributions(x) for x in (student, teacher))
        total = pixel_divergence(s, t, counted, self.temperature, self.divergence == "cross_entropy")
        pixels = images * height * width if counted is None else counted.sum()
        return reduced(total, self.reduction, images, classes, pixels)

    def _counted(self, x: Tensor, batch_info: BatchInfo) -> Tensor | None:
        """Pixels (N, P) of a map that count; None for all of them."""
        size = (x.shape[2], x.shape[3])
        inside = labels = None
        if self.clip_to_image and size != (1, 1):
            inside = image_region(x, batch_info).flatten(1)
        if self.skip_ignored:
            labels = labeled(batch_info, size)
        return labels if inside is None else inside if labels is None else inside & labels

    def _distributions(self, x: Tensor) -> Tensor:
        """A map (N, K, H, W) with what the softmax goes over on the second of three axes."""
        if self.softmax == "memory_runs":
            return x.reshape(1, -1, x.shape[1]).mT
        return x.flatten(2).mT if self.softmax == "cells" else x.flatten(2)

    def _enlarged(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return F.interpolate(x.to(dtype), scale_factor=self.enlarge, mode="bilinear", align_corners=True)


def labeled(batch_info: BatchInfo, size: tuple[int, int]) -> Tensor:
    """Where a cell's center has a label: (N, H * W) for a map of ``size`` cells over the padded batch.

    Raises:
        ConfigError: labels that are not those of pixels.
    """
    labels = batch_info.labels
    if labels is None or labels.dim() != 3:
        found = "none" if labels is None else f"labels of shape {tuple(labels.shape)}"
        raise ConfigError(f"SKIP_IGNORED needs labels of pixels, (N, H, W); this task has {found}")
    rows, columns = (
        (2 * torch.arange(cells, device=labels.device) + 1) * pixels // (2 * cells)
        for cells, pixels in zip(size, labels.shape[1:], strict=True)
    )
    return (labels[:, rows[:, None], columns] != batch_info.ignore_label).flatten(1)
