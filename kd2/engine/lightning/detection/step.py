"""How torchvision's detectors are run in a training step, and what the losses may know of their batches."""

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN
from torchvision.models.detection.image_list import ImageList

from kd2.distill import AnchorGrid, BatchInfo, eval_mode, match_levels, sees_all
from kd2.engine.build import EVERYTHING, Step
from kd2.engine.lightning.detection.anchors import Size, spacing
from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import anchor_generator, first_label

# The side of a blank image: a multiple of every stride up to P7.
BLANK = 256


def detection_step(student: nn.Module, reverse_colors: bool, unlabeled: CfgNode) -> Step:
    """A training step of a torchvision detector; batches are ``Batch``.

    Args:
        reverse_colors: whether the teacher reads the color channels in the other order.
        unlabeled: ``KD.UNLABELED``.
    """
    anchors = _StudentAnchors(student)
    return Step(
        functools.partial(_run_student, first=first_label(student)),
        functools.partial(_run_teacher, reverse_colors=reverse_colors, least=unlabeled.SCORE_THRESH),
        functools.partial(_batch_info, step=student.transform.size_divisible, anchors=anchors),
        _own_losses(student),
        EVERYTHING - {"labels", "images"} - (set() if anchors.bases else {"anchors"}),
        unlabeled=bool(unlabeled.DATASETS),
    )


def _run_student(student: nn.Module, batch: Batch, first: int) -> dict[str, Tensor]:
    """torchvision's own losses of the labeled images, with names that begin with ``loss_``."""
    targets = [t | {"labels": t["labels"] + first} for t in batch.targets]
    labeled = slice(len(targets))
    with _sees_whole_batch(student, batch.unit_images, labeled):
        losses = student(batch.unit_images[labeled], targets)
    return {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in losses.items()}


def _run_teacher(teacher: nn.Module, batch: Batch, reverse_colors: bool, least: float) -> None:
    """The same pixels; the teacher normalizes them its own way.

    Args:
        least: score of the detections that become boxes of the images without labels, if it runs so far.
    """
    images = [x.flip(0) for x in batch.unit_images] if reverse_colors else batch.unit_images
    labeled = len(batch.targets)
    if labeled == len(images):
        teacher(images)
        return
    with _sees_whole_batch(teacher, images, slice(labeled, None)):
        found = teacher(images[labeled:])
    for place, output in enumerate(found, labeled):
        batch.boxes[place] = output["boxes"][output["scores"] >= least].float().cpu()


@contextlib.contextmanager
def _sees_whole_batch(model: nn.Module, images: list[Tensor], heads: slice) -> Iterator[None]:
    """Inside the block, where ``model`` is called with the part ``heads`` of ``images``, its backbone sees all."""
    if len(images[heads]) == len(images):
        yield
        return
    whole: list[Tensor] = []

    def widen(_transform: nn.Module, inputs: tuple) -> tuple:
        targets = inputs[1] and [*inputs[1], *[{}] * (len(images) - len(inputs[1]))]
        return images, targets

    def narrow(_transform: nn.Module, _inputs: tuple, output: tuple) -> tuple:
        every, targets = output
        whole.append(every.tensors)
        return ImageList(every.tensors[heads], every.image_sizes[heads]), targets and targets[heads]

    before = model.transform.register_forward_pre_hook(widen)
    after = model.transform.register_forward_hook(narrow)
    try:
        with sees_all(model.backbone, whole.pop, heads):
            yield
    finally:
        before.remove()
        after.remove()


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
