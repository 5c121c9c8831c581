"""How torchvision's detectors are run in a training step, and what the losses may know of their batches."""

import contextlib
import functools
import math
from collections.abc import Iterator

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN
from torchvision.models.detection.image_list import ImageList

from kd2.distill import BatchInfo, BoxCoder, BoxCoding, sees_all
from kd2.engine.build import EVERYTHING, BuiltModel, Step
from kd2.engine.lightning.detection.coding import DenseAnchors, box_coders
from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import first_label
from kd2.engine.lightning.detection.roi_heads import run_heads, sampled_proposals
from kd2.engine.proposals import REASONS, SampledProposals


def detection_step(
    student: nn.Module, reverse_colors: bool, unlabeled: CfgNode, teacher: BuiltModel | None = None
) -> Step:
    """A training step of a torchvision detector; batches are ``Batch``.

    Args:
        reverse_colors: whether the teacher reads the color channels in the other order.
        unlabeled: ``KD.UNLABELED``.
        teacher: the one whose predictions are compared; None: no loss looks at them.

    Raises:
        ConfigError: see ``sampled_proposals``.
    """
    dense = DenseAnchors(student)
    anchors = None if isinstance(student, FCOS) else dense
    coders = box_coders(dense, student, teacher.module) if teacher else None
    sampled = sampled_proposals(student, teacher)
    absent = {"anchors": anchors is None, "coding": coders is None, "proposals": sampled is None}
    coding = (dense, *coders) if coders else None
    run = functools.partial(_run_student, first=first_label(student))
    size_step = student.transform.size_divisible
    return Step(
        functools.partial(sampled.run, run) if sampled else run,
        functools.partial(_run_teacher, reverse_colors=reverse_colors, least=unlabeled.SCORE_THRESH, sampled=sampled),
        functools.partial(_batch_info, step=size_step, anchors=anchors, coding=coding, sampled=sampled),
        _own_losses(student),
        EVERYTHING - {"labels", "images"} - {name for name, missing in absent.items() if missing},
        REASONS,
        student_first=sampled is not None,
        unlabeled=bool(unlabeled.DATASETS),
    )


def _run_student(student: nn.Module, batch: Batch, first: int) -> dict[str, Tensor]:
    """torchvision's own losses of the labeled images, with names that begin with ``loss_``."""
    targets = [t | {"labels": t["labels"] + first} for t in batch.targets]
    labeled = slice(len(targets))
    with _sees_whole_batch(student, batch.unit_images, labeled):
        losses = student(batch.unit_images[labeled], targets)
    return {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in losses.items()}


def _run_teacher(
    teacher: nn.Module, batch: Batch, reverse_colors: bool, least: float, sampled: SampledProposals | None
) -> None:
    """The same pixels; the teacher normalizes them its own way.

    Args:
        least: score of the detections that become boxes of the images without labels, if it runs so far.
        sampled: the student's proposals, if the teacher's heads are tapped.
    """
    images = [x.flip(0) for x in batch.unit_images] if reverse_colors else batch.unit_images
    labeled = len(batch.targets)
    if labeled == len(images):
        run_heads(teacher, images, sampled) if sampled else teacher(images)
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


def _batch_info(
    batch: Batch,
    step: int,
    anchors: DenseAnchors | None,
    coding: tuple[DenseAnchors, BoxCoder, BoxCoder, int] | None,
    sampled: SampledProposals | None,
) -> BatchInfo:
    """Boxes on the host; anchors of the student's own generator."""
    sizes = [(x.shape[1], x.shape[2]) for x in batch.images]
    height, width = (math.ceil(max(side) / step) * step for side in zip(*sizes, strict=True))
    padded = height, width
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
