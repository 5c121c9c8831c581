"""How torchvision's detectors are run in a training step, and what the losses may know of their batches."""

import functools
import math

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN

from kd2.distill import BatchInfo, BoxCoder, BoxCoding
from kd2.engine.build import EVERYTHING, BuiltModel, Step
from kd2.engine.lightning.detection.anchors import DenseAnchors, box_coders
from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import first_label
from kd2.engine.lightning.detection.roi_heads import run_heads, sampled_proposals
from kd2.engine.proposals import REASONS, SampledProposals


def detection_step(student: nn.Module, reverse_colors: bool, teacher: BuiltModel | None = None) -> Step:
    """A training step of a torchvision detector; batches are ``Batch``.

    Raises:
        ConfigError: see ``sampled_proposals``.
    """
    points = DenseAnchors(student)
    anchors = None if isinstance(student, FCOS) else points
    coders = box_coders(points, student, teacher.module) if teacher else None
    sampled = sampled_proposals(student, teacher)
    absent = {"anchors": anchors is None, "coding": coders is None, "proposals": sampled is None}
    run = functools.partial(_run_student, first=first_label(student))
    return Step(
        functools.partial(sampled.run, run) if sampled else run,
        functools.partial(_run_teacher, reverse_colors=reverse_colors, sampled=sampled),
        functools.partial(
            _batch_info,
            step=student.transform.size_divisible,
            anchors=anchors,
            coding=(points, *coders) if coders else None,
            sampled=sampled,
        ),
        _own_losses(student),
        EVERYTHING - {"labels", "images"} - {name for name, missing in absent.items() if missing},
        REASONS,
        student_first=sampled is not None,
    )


def _run_student(student: nn.Module, batch: Batch, first: int) -> dict[str, Tensor]:
    """torchvision's own losses, with names that begin with ``loss_``."""
    targets = [t | {"labels": t["labels"] + first} for t in batch.targets]
    losses = student(batch.unit_images, targets)
    return {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in losses.items()}


def _run_teacher(teacher: nn.Module, batch: Batch, reverse_colors: bool, sampled: SampledProposals | None) -> None:
    """The same pixels; the teacher normalizes them its own way."""
    images = [x.flip(0) for x in batch.unit_images] if reverse_colors else batch.unit_images
    if sampled is None:
        teacher(images)
    else:
        run_heads(teacher, images, sampled)


def _batch_info(
    batch: Batch,
    step: int,
    anchors: DenseAnchors | None,
    coding: tuple[DenseAnchors, BoxCoder, BoxCoder] | None,
    sampled: SampledProposals | None,
) -> BatchInfo:
    """Boxes on the host; anchors of the student's own generator."""
    sizes = [(x.shape[1], x.shape[2]) for x in batch.images]
    padded = tuple(math.ceil(max(side) / step) * step for side in zip(*sizes, strict=True))
    return BatchInfo(
        sizes,
        padded,
        batch.boxes,
        anchors=functools.partial(anchors.grids, padded) if anchors else None,
        coding=BoxCoding(functools.partial(coding[0].grids, padded), *coding[1:]) if coding else None,
        proposals=sampled.proposals if sampled else [],
    )


def _own_losses(student: nn.Module) -> set[str]:
    if isinstance(student, FasterRCNN):
        names = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
        return names | ({"loss_mask"} if isinstance(student, MaskRCNN) else set())
    names = {"loss_classification", "loss_bbox_regression"}
    return names | ({"loss_bbox_ctrness"} if isinstance(student, FCOS) else set())
