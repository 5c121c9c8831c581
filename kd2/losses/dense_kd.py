"""Distillation of what a one-stage detector predicts: the sigmoid scores of all anchors, and the boxes that they say.

Source: Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection" (BCKD),
ICCV 2023 (arXiv 2308.14286), section 3.2 and 3.3, and the authors' code.
Letters: N images, L levels, A anchors a cell, K classes, H x W map, P cells of a map.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import AnchorGrid, BatchInfo, BoxCoding, ConfigError, FeatureSpec
from kd2.distill.values import NonNegative, Share
from kd2.losses.logit_checks import check_cells, check_classes, check_scores
from kd2.losses.registry import register_loss
from kd2.ops.boxes import decode, generalized_iou
from kd2.ops.masks import anchor_masks, box_masks, image_region
from kd2.ops.precision import wide
from kd2.ops.reduction import added, mean_of_processes
from kd2.ops.scaled_entropy import scaled_entropy

Positions = Literal["all", "mask", "gt_box", "teacher"]
# A teacher's best score above which it sees an object: the usual threshold of detections.
CONFIDENT = 0.05


def score_divergences(student: Tensor, teacher: Tensor, beta: float = 1.0) -> Tensor:
    """``BCE(z_s, q) |q - p|^beta`` of scores before the sigmoid, with p and q the sigmoids of student and teacher.

    The gradient runs through ``|q - p|`` too. With beta 0 the minimum is the teacher's entropy instead of 0.
    """
    p, q = student.sigmoid(), teacher.sigmoid()
    return F.binary_cross_entropy_with_logits(student, q, reduction="none") * (q - p).abs() ** beta


def teacher_normalizer(best: list[Tensor], counted: list[Tensor]) -> Tensor:
    """The sum of the teacher's best scores above 0.05, one for each anchor that counts; at least 1.

    Args:
        best: L levels (N, A, P), the highest of an anchor's K scores, each in [0, 1].
        counted: L factors that broadcast to them.

    With several processes it is their mean, so that they together equal one process with all images.
    """
    levels = zip(best, counted, strict=True)
    total = added(torch.where(b > CONFIDENT, b, 0).mul(c).sum(dtype=torch.float64) for b, c in levels)
    return mean_of_processes(total).clamp(min=1)


def box_divergences(student: Tensor, teacher: Tensor, coding: BoxCoding, anchors: Tensor) -> Tensor:
    """``1 - GIoU`` of the decoded boxes, (N, A, H, W) of box maps (N, 4A, H, W), channel = anchor * 4 + number.

    Args:
        anchors: (H, W, A, 4) in pixels.
    """
    dtype = wide(student, teacher)
    s, t = (x.to(dtype).unflatten(1, (-1, 4)).movedim(2, -1) for x in (student, teacher))
    places = anchors.to(dtype).movedim(2, 0)
    return 1 - generalized_iou(decode(coding.student, s, places), decode(coding.teacher, t, places))


@register_loss("dense_kd")
class DenseKd(nn.Module):
    """Scores of all anchors by ``score_divergences``, boxes by ``box_divergences``; over ``teacher_normalizer``.

    The tap holds the score maps of all levels, with ``box: giou`` followed by the box maps: two taps of one alias. An
    anchor's box counts by how far the scores are apart, ``max_k |q - p|``, without gradient. Anchors over batch padding
    do not count; those that the student's own assignment ignores do. The authors divide by the student's positives.

    Args:
        student, teacher: what the probe saw of the tapped maps, before the sigmoid.
        beta: power of the distance; 0 or at least 1.
        positions: which anchors count: ``all``, as published; ``mask``: at the cells of the imitation mask, see
            ``imitation_mask``; ``gt_box``: at cells inside boxes; ``teacher``: where the teacher's best score is above
            0.05.
        psi: threshold factor of ``mask``.
        box: ``giou`` compares boxes too.
        box_weight: factor of the boxes' part; CrossKD's 1 for RetinaNet.

    Raises:
        ConfigError: other classes, anchors or sizes on the two sides; an odd number of maps with ``giou``.
    """

    over_classes = True

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        beta: NonNegative = 1.0,
        positions: Positions = "all",
        psi: Share = 0.5,
        box: Literal["none", "giou"] = "none",
        box_weight: NonNegative = 1.0,
    ):
        super().__init__()
        check_classes(student, teacher)
        check_cells(student, teacher)
        if box == "giou" and len(student) % 2:
            raise ConfigError(f"BOX is giou, the tap has {len(student)} maps, expected one of scores and boxes a level")
        if box == "none" and _with_boxes(student):
            raise ConfigError("BOX is none, the tap has every level twice, expected the scores alone, or BOX giou")
        self.beta, self.positions, self.psi, self.box, self.box_weight = beta, positions, psi, box, box_weight
        self.strides = [s.stride for s in student]
        masked = {"mask": ["boxes", "anchors"], "gt_box": ["boxes"]}.get(positions, [])
        self.needs = frozenset(["sizes", "coding", *masked])
        if box == "giou":
            self.parts = ("classes", "boxes")

    @staticmethod
    def conflicts(*, beta: float, **_: Any) -> Iterator[str]:
        """What is wrong with options taken together."""
        if 0 < beta < 1:
            yield f"BETA is {beta}, expected 0 or at least 1: in between the slope at equal scores is infinite"

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Any:
        """The unweighted loss, or its two parts, of L score maps (N, A * K, H, W), with boxes L more (N, 4A, H, W).

        Raises:
            ConfigError: maps of other sizes on the two sides, on which the student has no anchors, or that are no
                scores or boxes.
        """
        coding = batch_info.coding
        assert coding is not None, "the builder refuses a loss whose needs no one meets"
        _check_padding(student, teacher)
        levels = len(student) // 2 if self.box == "giou" else len(student)
        grids = coding.grids([(s.shape[2], s.shape[3]) for s in student[:levels]])
        with torch.autocast(student[0].device.type, enabled=False):
            best = [_best(t, len(grid.base), coding.classes) for t, grid in zip(teacher, grids, strict=False)]
            inside = [image_region(s, batch_info).flatten(2) for s in student[:levels]]
            chosen = self._chosen(best, student[:levels], batch_info)
            norm = teacher_normalizer(best, inside)
            sums, weights = [], []
            for s, t, real, kept, grid in zip(student, teacher, inside, chosen, grids, strict=False):
                counted = real & kept
                total, apart = scaled_entropy(s.flatten(2), t.flatten(2), counted, self.beta, len(grid.base))
                sums.append(total)
                weights.append(apart * counted)
            classes = added(sums) / norm.to(sums[0].dtype)
            if self.box == "none":
                return classes
            boxes = added(_box_sums(student[levels:], teacher[levels:], weights, grids, coding))
            return {"classes": classes, "boxes": self.box_weight * boxes / norm.to(boxes.dtype)}

    def _chosen(self, best: list[Tensor], maps: list[Tensor], batch_info: BatchInfo) -> list[Tensor]:
        """L masks of the anchors at ``positions``, which broadcast to (N, A, P)."""
        if self.positions == "all":
            return [torch.ones((), dtype=torch.bool, device=b.device) for b in best]
        if self.positions == "teacher":
            return [b > CONFIDENT for b in best]
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        if self.positions == "gt_box":
            masks = box_masks(batch_info.boxes, sizes, self.strides[: len(sizes)])
        else:
            assert batch_info.anchors is not None, "the builder refuses a loss whose needs no one meets"
            masks = anchor_masks(batch_info.boxes, batch_info.anchors(sizes), self.psi)
        return [m.flatten(1)[:, None].to(x.device, non_blocking=True) for m, x in zip(masks, maps, strict=True)]


def _with_boxes(specs: list[FeatureSpec]) -> bool:
    """Whether the second half of the maps lies on the levels of the first."""
    half = len(specs) // 2
    return len(specs) > 1 and [s.stride for s in specs[:half]] == [s.stride for s in specs[half:]]


def _check_padding(student: list[Tensor], teacher: list[Tensor]) -> None:
    for s, t in zip(student, teacher, strict=True):
        if s.shape[2:] != t.shape[2:]:
            raise ConfigError(
                f"a map has {tuple(s.shape[2:])} cells in the student and {tuple(t.shape[2:])} in the teacher, which "
                "pads the batch to another size; they are compared cell by cell"
            )


def _best(teacher: Tensor, anchors: int, classes: int) -> Tensor:
    """The teacher's best score of every anchor, (N, A, P) in [0, 1]."""
    check_scores(teacher.shape[1], anchors, classes)
    return teacher.unflatten(1, (anchors, -1)).amax(2).flatten(2).to(wide(teacher, teacher)).sigmoid()


def _box_sums(
    student: list[Tensor], teacher: list[Tensor], weights: list[Tensor], grids: list[AnchorGrid], coding: BoxCoding
) -> Iterator[Tensor]:
    """Per level the weighted sum of ``box_divergences``; weights (N, A, P)."""
    for s, t, weight, grid in zip(student, teacher, weights, grids, strict=True):
        if s.shape[1] != 4 * len(grid.base):
            raise ConfigError(
                f"a map of boxes has {s.shape[1]} channels, expected 4 for each of {len(grid.base)} anchors a cell"
            )
        yield (box_divergences(s, t, coding, grid.on(s.device).dense()).flatten(2) * weight).sum()
