"""The heads of torchvision's R-CNNs that look at proposals, in a training step of distillation."""

import functools

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from kd2.distill import ConfigError, Proposals
from kd2.engine.build import BuiltModel
from kd2.engine.proposals import SampledProposals, taps_heads

# What ``RoIHeads.select_training_samples`` gives: boxes, indices of the ground truth, labels, box targets; per image.
Samples = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def sampled_proposals(student: nn.Module, teacher: BuiltModel | None) -> SampledProposals | None:
    """What records the student's proposals for the teacher's heads; None when those are not tapped.

    Raises:
        ConfigError: a student or teacher that is no R-CNN.
    """
    if teacher is None or not taps_heads(teacher.taps):
        return None
    for side, model in (("student", student), ("teacher", teacher.module)):
        if not isinstance(model, FasterRCNN):
            raise ConfigError(
                f"{teacher.taps_key}: a tap in roi_heads asks for an R-CNN on both sides, the {side} is a "
                f"{type(model).__name__}"
            )
    coders = [model.roi_heads.box_coder.weights for model in (student, teacher.module)]
    rescale = tuple(own / other for own, other in zip(*coders, strict=True))
    read = functools.partial(_read, rescale=rescale)
    return SampledProposals(student.roi_heads, ["select_training_samples"], "mask_roi_pool", read)


def run_heads(teacher: nn.Module, images: list[Tensor], sampled: SampledProposals) -> None:
    """The teacher's backbone on its own images, its box and mask heads on the student's proposals; no RPN, no NMS."""
    batch, _ = teacher.transform(images)
    features, heads = teacher.backbone(batch.tensors), teacher.roi_heads
    (boxes,) = sampled.boxes
    heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, batch.image_sizes)))
    if sampled.masked and heads.has_mask():
        heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, sampled.masked, batch.image_sizes)))


def _read(_stage: int, samples: Samples, rescale: tuple[float, float, float, float]) -> tuple[list[Tensor], Proposals]:
    boxes, _, labels, targets = samples
    return list(boxes), Proposals(torch.cat(labels), 0, lambda: torch.cat(targets), rescale)
