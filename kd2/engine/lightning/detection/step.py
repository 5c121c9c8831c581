"""How torchvision's detectors are run in a training step, and what the losses may know of their batches."""

import functools
import math

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN

from kd2.distill import AnchorGrid, BatchInfo, eval_mode, match_levels
from kd2.engine.build import EVERYTHING, Step
from kd2.engine.lightning.detection.anchors import Size, spacing
from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import anchor_generator, first_label

# The side of a blank image: a multiple of every stride up to P7.
BLANK = 256


def detection_step(student: nn.Module, reverse_colors: bool) -> Step:
    """A training step of a torchvision detector; batches are ``Batch``."""
    anchors = _StudentAnchors(student)
    return Step(
        functools.partial(_run_student, first=first_label(student)),
        functools.partial(_run_teacher, reverse_colors=reverse_colors),
        functools.partial(_batch_info, step=student.transform.size_divisible, anchors=anchors),
        _own_losses(student),
        EVERYTHING - {"labels", "images"} - (set() if anchors.bases else {"anchors"}),
    )


def _run_student(student: nn.Module, batch: Batch, first: int) -> dict[str, Tensor]:
    """torchvision's own losses, with names that begin with ``loss_``."""
    targets = [t | {"labels": t["labels"] + first} for t in batch.targets]
    losses = student(batch.unit_images, targets)
    return {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in losses.items()}


def _run_teacher(teacher: nn.Module, batch: Batch, reverse_colors: bool) -> None:
    """The same pixels; the teacher normalizes them its own way."""
    teacher([x.flip(0) for x in batch.unit_images] if reverse_colors else batch.unit_images)


def _batch_info(batch: Batch, step: int, anchors: "_StudentAnchors") -> BatchInfo:
    """Boxes on the host; anchors of the student's own generator."""
    sizes = [(x.shape[1], x.shape[2]) for x in batch.images]
    height, width = (math.ceil(max(side) / step) * step for side in zip(*sizes, strict=True))
    grids = functools.partial(anchors.grids, (height, width)) if anchors.bases else None
    return BatchInfo(sizes, (height, width), batch.boxes, anchors=grids)


class _StudentAnchors:
    """The anchors of a detector's own generator, copied to the host once: reading them from a device would wait for it.

    Attributes:
        bases: per level the (K, 4) anchors of cell (0, 0); empty for FCOS.
        strides: of the backbone's maps.
    """

    def __init__(self, student: nn.Module):
        self.generator = anchor_generator(student)
        self.bases = [base.detach().cpu() for base in self.generator.cell_anchors] if self.generator else []
        with eval_mode(student):
            maps = student.backbone(torch.zeros(1, 3, BLANK, BLANK)).values()
        self.strides = [BLANK // x.shape[2] for x in maps]

    def grids(self, padded: Size, wanted: list[Size]) -> list[AnchorGrid]:
        """The grids of the levels whose maps have the ``wanted`` (H, W), in a batch of ``padded`` (H, W) pixels."""
        available = [(math.ceil(padded[0] / stride), math.ceil(padded[1] / stride)) for stride in self.strides]
        return [
            AnchorGrid(self.bases[i], spacing(self.generator, i, padded, available[i]), available[i])
            for i in match_levels(wanted, available)
        ]


def _own_losses(student: nn.Module) -> set[str]:
    if isinstance(student, FasterRCNN):
        names = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
        return names | ({"loss_mask"} if isinstance(student, MaskRCNN) else set())
    names = {"loss_classification", "loss_bbox_regression"}
    return names | ({"loss_bbox_ctrness"} if isinstance(student, FCOS) else set())
