"""Decoupled knowledge distillation (DKD): the true class against the rest, and the rest among themselves.

Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022 (arXiv 2203.08679), section 3, eq. 7.
Letters: N images, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import NonNegative, Positive
from kd2.losses.logit_checks import check_classes, softened
from kd2.losses.registry import register_loss
from kd2.ops.reduction import added


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two parts of ``temperature^2 KL(teacher || student)``, each unweighted and averaged over images.

    The first compares (p of the true class, p of all others), the second the others' distribution among themselves; it
    is 0 when there is one other class. Logarithms are never taken of sums of probabilities, so no logits overflow.

    Args:
        student, teacher: logits (N, K); computed in at least float32.
        labels: (N,) int64; an image whose label is not in 0..K-1 does not count.
    """
    classes = student.shape[1]
    known = (labels >= 0) & (labels < classes)
    true = labels.clamp(0, classes - 1)[:, None]
    is_true = true == torch.arange(classes, device=true.device)
    logs = [x.log_softmax(1) for x in softened(student, teacher, temperature)]
    binary = [_log_split(x, true, is_true) for x in logs]
    others = [x.masked_fill(is_true, float("-inf")).log_softmax(1).masked_fill(is_true, 0.0) for x in logs]
    factor = temperature**2 / known.sum().clamp(min=1).to(logs[0].dtype)
    target, rest = (
        F.kl_div(s, t, reduction="none", log_target=True).sum(1).where(known, 0).sum() * factor
        for s, t in (binary, others)
    )
    return target, rest


def _log_split(logs: Tensor, true: Tensor, is_true: Tensor) -> Tensor:
    """Logarithms (N, 2) of the probability of the true class and of all others together, given those of all (N, K)."""
    rest = logs.masked_fill(is_true, float("-inf")).logsumexp(1)
    return torch.stack([logs.gather(1, true)[:, 0], rest], 1)


@register_loss("dkd")
class Dkd(nn.Module):
    """DKD of a classifier's logits: ``alpha`` times the true class's part and ``beta`` times the other classes' part.

    It needs labels, so it goes with no mixup. The authors' warm-up, the factor min(epoch / W, 1) with epochs counted
    from 1, is a RAMP_ITERS of (W - 1) * iterations per epoch: a line with the same sum over the W epochs that is never
    further than 1 / W from the authors' stairs, and equal to them when an epoch is one iteration. Their ImageNet
    setting W = 1 is no warm-up: RAMP_ITERS 0.

    Args:
        student, teacher: what the probe saw of the tapped logits (one cell: ``@vector``), in one class order.
        temperature: 4 on CIFAR-100, 1 on ImageNet.
        alpha: 1 throughout the paper.
        beta: 8 on CIFAR-100 (2 to 8 by pair of networks); ImageNet 0.5 (ResNet-34 to 18), 2 (ResNet-50 to MobileNet).

    Raises:
        ConfigError: class counts that differ; fewer than two classes; maps of pixels.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        temperature: Positive = 4.0,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
    ):
        super().__init__()
        check_classes(student, teacher)
        for s, t in zip(student, teacher, strict=True):
            if s.size != (1, 1) or t.size != (1, 1):
                raise ConfigError(f"DKD takes a classifier's logits (N, K), found maps of {s.size} and {t.size} cells")
            if s.channels < 2:
                raise ConfigError("DKD needs at least two classes, found one")
        self.temperature, self.alpha, self.beta = temperature, alpha, beta
        self.parts = ("target", "others")
        self.needs = frozenset({"labels"})

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, Tensor]:
        """The two parts, times alpha and beta, summed over L student maps and L teacher maps, all (N, K, 1, 1).

        Raises:
            ConfigError: a batch without labels, or with class probabilities in place of them.
        """
        labels = _whole_labels(batch_info)
        parts = [
            decoupled(s.flatten(1), t.flatten(1), labels, self.temperature)
            for s, t in zip(student, teacher, strict=True)
        ]
        target, others = (added(part) for part in zip(*parts, strict=True))
        return {"target": self.alpha * target, "others": self.beta * others}


def _whole_labels(batch_info: BatchInfo) -> Tensor:
    labels = batch_info.labels
    if labels is None:
        raise ConfigError("DKD needs labels, this batch has none; TYPE: logits works without")
    if labels.dim() != 1 or labels.is_floating_point():
        raise ConfigError(
            f"DKD needs one class for each image, found labels {tuple(labels.shape)} of {labels.dtype}; mixed images "
            "have none: take a view mode without mixup, or TYPE: logits"
        )
    return labels
