"""The heads of Detectron2's R-CNNs that look at proposals, in a training step of distillation."""

import functools
from typing import Any

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from kd2.distill import ConfigError, Proposals
from kd2.engine.build import BuiltModel
from kd2.engine.proposals import SampledProposals, taps_heads
from kd2.ops.boxes import encode_deltas


def sampled_proposals(student: nn.Module, teacher: BuiltModel | None) -> SampledProposals | None:
    """What records the student's proposals for the teacher's heads; None when those are not tapped.

    Raises:
        ConfigError: a student whose heads sample no proposals, or one whose heads share a backbone stage (C4).
    """
    if teacher is None or not taps_heads(teacher.taps):
        return None
    for side, model in (("student", student), ("teacher", teacher.module)):
        heads = getattr(model, "roi_heads", None)
        if not isinstance(heads, StandardROIHeads):
            raise ConfigError(
                f"{teacher.taps_key}: a tap in roi_heads asks for StandardROIHeads or CascadeROIHeads on both sides, "
                f"the {side} has {type(heads).__name__ if heads is not None else 'no roi_heads'}"
            )
    heads = student.roi_heads
    cascade = ["_match_and_label_boxes"] if isinstance(heads, CascadeROIHeads) else []
    read = functools.partial(_read, heads=heads, teacher=teacher.module.roi_heads)
    return SampledProposals(heads, ["label_and_sample_proposals", *cascade], "mask_pooler", read)


def scored_by_sigmoids(student: nn.Module, teacher: nn.Module) -> str:
    """Why the class scores of two R-CNNs are no softmax over classes and background, which ``Proposals`` promises;
    empty where they are."""
    for side, model in (("student", student), ("teacher", teacher)):
        if any(getattr(stage, "use_sigmoid_ce", False) for stage in _stages(model.roi_heads.box_predictor)):
            return (
                f"MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE of the {side} is True, expected False: the scores of its box head "
                "are no softmax over classes and background"
            )
    return ""


def run_heads(teacher: nn.Module, samples: list[dict[str, Any]], sampled: SampledProposals) -> None:
    """The teacher's backbone on its own images, its box and mask heads on the student's proposals; no RPN, no NMS."""
    features = teacher.backbone(teacher.preprocess_image(samples).tensor)
    heads = teacher.roi_heads
    maps = [features[name] for name in heads.box_in_features]
    box_heads, predictors = _stages(heads.box_head), _stages(heads.box_predictor)
    for boxes, head, predictor in zip(sampled.boxes, box_heads, predictors, strict=False):
        predictor(head(heads.box_pooler(maps, [Boxes(b) for b in boxes])))
    if sampled.masked and heads.mask_on:
        maps = [features[name] for name in heads.mask_in_features]
        heads.mask_head.layers(heads.mask_pooler(maps, sampled.masked))


def _read(
    stage: int, instances: list[Instances], heads: nn.Module, teacher: nn.Module
) -> tuple[list[Tensor], Proposals]:
    """Boxes of what ``label_and_sample_proposals`` gave, at once: heads may write others there later."""
    boxes = [x.proposal_boxes.tensor for x in instances]
    truth = [x.gt_boxes.tensor if x.has("gt_boxes") else x.proposal_boxes.tensor for x in instances]
    own = _stages(heads.box_predictor)[stage].box2box_transform.weights
    others = _stages(teacher.box_predictor)
    other = others[min(stage, len(others) - 1)].box2box_transform.weights
    return boxes, Proposals(
        torch.cat([x.gt_classes for x in instances]),
        heads.num_classes,
        lambda: encode_deltas(torch.cat(truth), torch.cat(boxes), own),
        tuple(a / b for a, b in zip(own, other, strict=True)),
    )


def _stages(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.ModuleList) else [module]
