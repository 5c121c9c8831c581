"""Distillation of the box heads of R-CNNs, on the proposals that the student was trained on.

Sources: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022 (arXiv 2203.08679), section 4.2, and its code
mdistiller; Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NIPS 2017, section
3.2 (weighted classes) and 3.3 (bounded boxes).
Letters: S stages of a cascade (1 otherwise), R proposals of the batch, K classes, P proposals with an object.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec, Proposals
from kd2.distill.values import NonNegative, Positive
from kd2.losses.dkd import decoupled
from kd2.losses.logit_checks import softened
from kd2.losses.registry import register_loss
from kd2.ops.boxes import scaled
from kd2.ops.precision import wide
from kd2.ops.reduction import added


def weighted_divergence(
    student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor, temperature: float = 1.0
) -> Tensor:
    """``T^2 / R sum_r sum_c w_c p_c (log p_c - log q_c)`` with p of the teacher and q of the student.

    Weights other than 1 make it no divergence: it may be negative; the gradient is that of a weighted cross-entropy.

    Args:
        student, teacher: logits (R, K + 1).
        labels: (R,); a proposal with -1 does not count, in R neither.
        weights: (K + 1,).
    """
    s, t = (x.log_softmax(1) for x in softened(student, teacher, temperature))
    rows = (F.kl_div(s, t, reduction="none", log_target=True) * weights).sum(1)
    return _mean(rows, labels >= 0) * temperature**2


def bounded_boxes(student: Tensor, teacher: Tensor, targets: Tensor, foreground: Tensor, margin: float) -> Tensor:
    """``1 / R sum_fg e_s [e_s + margin > e_t]`` with e the squared distance from the target (Chen et al., eq. 4).

    The student's own error is added where it is not better than the teacher by ``margin``; the teacher pulls nowhere.

    Args:
        student, teacher, targets: (R, 4), in the student's encoding.
        foreground: (R,) bool.
    """
    y = torch.where(foreground[:, None], targets, 0)
    own, other = ((x - y).square().sum(1) for x in (student, teacher))
    counted = foreground & (own + margin > other)
    return torch.where(counted, own, 0).sum() / max(len(own), 1)


def smooth_boxes(student: Tensor, teacher: Tensor, foreground: Tensor, beta: float) -> Tensor:
    """``1 / R sum_fg sum_4 smoothL1(r_s - r_t; beta)`` of box numbers (R, 4) in the student's encoding."""
    rows = F.smooth_l1_loss(student, teacher, reduction="none", beta=beta).sum(1)
    return torch.where(foreground, rows, 0).sum() / max(len(rows), 1)


def mask_divergence(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Mean BCE of the student's mask logits of each proposal's class against the sigmoid of the teacher's.

    Args:
        student, teacher: (P, C, H, W), class-agnostic with C = 1.
        labels: (P,), the channel of each one's class.
    """
    s, t = (own_class(x, labels) for x in (student, teacher))
    return F.binary_cross_entropy_with_logits(s, t.sigmoid(), reduction="sum") / max(s.numel(), 1)


def own_class(x: Tensor, labels: Tensor, numbers: int = 1) -> Tensor:
    """What a head says for each proposal's own class.

    Args:
        x: (R, C * numbers, ...), channel = class * numbers + number; C = 1 is for all classes.
        labels: (R,) in 0..C-1; of others the result means nothing.

    Returns:
        (R, numbers, ...).
    """
    x = x.unflatten(1, (-1, numbers))
    if x.shape[1] == 1:
        return x[:, 0]
    at = labels.clamp(0, x.shape[1] - 1).view(-1, *[1] * (x.dim() - 1)).expand(-1, 1, *x.shape[2:])
    return x.gather(1, at)[:, 0]


@register_loss("roi_kd")
class RoiKd(nn.Module):
    """Classes, boxes and masks of the two sides' heads on the proposals that were sampled for the student.

    The tap holds what a box predictor gives, scores (R, K + 1) and box numbers, ``@vector``; of a cascade its stages
    from the first on, one tap each under one alias; behind them, for the part of masks, what the mask predictor gives.
    A cascade's parts are means over the tapped stages.

    Args:
        student, teacher: what the probe saw of the tapped outputs.
        classes: ``dkd`` as published for Faster R-CNN; ``kl`` needs no labels.
        temperature: of the class scores.
        alpha, beta: of DKD, see there.
        background_weight: of ``kl``: the factor of the background's term; Chen et al. have 1.5.
        box: ``bounded`` or ``smooth_l1`` compare boxes too.
        box_weight: factor of the boxes' part; Chen et al. have 0.5.
        margin: of ``bounded``, in squared units of the box numbers.
        box_beta: of ``smooth_l1``: below this difference it is quadratic.
        mask_weight: factor of the masks' part, which is there when masks are tapped.

    Raises:
        ConfigError: other classes on the two sides; outputs that are no pairs of scores and boxes.
    """

    over_classes = True

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        classes: Literal["dkd", "kl"] = "dkd",
        temperature: Positive = 1.0,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 0.25,
        background_weight: NonNegative = 1.0,
        box: Literal["none", "bounded", "smooth_l1"] = "none",
        box_weight: NonNegative = 1.0,
        margin: NonNegative = 0.0,
        box_beta: NonNegative = 0.0,
        mask_weight: NonNegative = 1.0,
    ):
        super().__init__()
        self.stages, self.masks = len(student) // 2, len(student) % 2 == 1
        _check_heads(student, teacher, self.stages)
        self.classes, self.temperature, self.alpha, self.beta = classes, temperature, alpha, beta
        self.background_weight, self.box, self.box_weight = background_weight, box, box_weight
        self.margin, self.box_beta, self.mask_weight = margin, box_beta, mask_weight
        self.needs = frozenset({"proposals"})
        self.parts = ("classes", *["boxes"] * (box != "none"), *["masks"] * self.masks)

    @staticmethod
    def conflicts(*, classes: str, background_weight: float, **_: Any) -> Iterator[str]:
        """What is wrong with options taken together."""
        if classes == "dkd" and background_weight != 1:
            yield f"BACKGROUND_WEIGHT is {background_weight}, only CLASSES: kl has such a weight"

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, Tensor]:
        """The parts, times their factors, of S pairs (R, K + 1, 1, 1) and (R, 4 or more, 1, 1), and masks (P, C, H, W).

        Exact zeros that keep the graph where there is no proposal or no object.
        """
        with torch.autocast(student[0].device.type, enabled=False):
            pairs = [self._wide(s, t) for s, t in zip(student, teacher, strict=True)]
            stages = batch_info.proposals[: self.stages]
            scores, boxes = pairs[: 2 * self.stages : 2], pairs[1 : 2 * self.stages : 2]
            classes = [self._classes(*pair, stage) for pair, stage in zip(scores, stages, strict=True)]
            parts = {"classes": added(classes) / self.stages}
            if self.box != "none":
                found = [self._boxes(*pair, stage) for pair, stage in zip(boxes, stages, strict=True)]
                parts["boxes"] = self.box_weight * added(found) / self.stages
            if self.masks:
                s, t = pairs[-1]
                parts["masks"] = self.mask_weight * mask_divergence(s, t, _first_objects(stages[0], len(s)))
            return parts

    def _wide(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        dtype = wide(student, teacher)
        s, t = student.to(dtype), teacher.to(dtype)
        return (s.flatten(1), t.flatten(1)) if s.shape[2:] == (1, 1) else (s, t)

    def _classes(self, student: Tensor, teacher: Tensor, stage: Proposals) -> Tensor:
        if self.classes == "dkd":
            target, others = decoupled(student, teacher, stage.labels, self.temperature)
            return self.alpha * target + self.beta * others
        weights = torch.ones_like(student[:1])
        weights[:, stage.background] = self.background_weight
        return weighted_divergence(student, teacher, stage.labels, weights, self.temperature)

    def _boxes(self, student: Tensor, teacher: Tensor, stage: Proposals) -> Tensor:
        s, t = (own_class(x, stage.labels, numbers=4) for x in (student, teacher))
        t = scaled(t, stage.rescale)
        if self.box == "bounded":
            return bounded_boxes(s, t, stage.targets().to(s.dtype), stage.foreground, self.margin)
        return smooth_boxes(s, t, stage.foreground, self.box_beta)


def _check_heads(student: list[FeatureSpec], teacher: list[FeatureSpec], stages: int) -> None:
    if not stages or any(x.size != (1, 1) for side in (student, teacher) for x in side[: 2 * stages]):
        raise ConfigError(
            f"the tap has maps of {[x.size for x in student]} cells; expected the scores and boxes of a box predictor, "
            "such as roi=roi_heads.box_predictor@vector, and behind them at most one map of masks"
        )
    for s, t in zip(student[: 2 * stages : 2], teacher[: 2 * stages : 2], strict=True):
        if s.channels != t.channels:
            raise ConfigError(f"the student scores {s.channels} classes and background, the teacher {t.channels}")
    masks = [side[-1] for side in (student, teacher) if len(side) % 2]
    if any(x.size == (1, 1) for x in masks) or len({x.size for x in masks}) > 1:
        raise ConfigError(
            f"the masks are of {' and '.join(str(x.size) for x in masks)} cells, expected one size above 1"
        )


def _mean(rows: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, rows, 0).sum() / counted.sum().clamp(min=1)


def _first_objects(stage: Proposals, count: int) -> Tensor:
    """Labels (P,) of the ``count`` proposals with an object, in their order; without waiting for the device."""
    return stage.labels[stage.foreground.logical_not().to(torch.uint8).argsort(stable=True)[:count]]
