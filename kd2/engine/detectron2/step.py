"""One training step: the student's losses, the teacher's forward pass, and what the losses may know of the batch.

Batches are Detectron2's: a list with a dict an image.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage, has_event_storage
from torch import Tensor, nn

from kd2.distill import BatchInfo, BoxCoder, BoxCoding, sees_all
from kd2.engine.build import BuiltModel, Step
from kd2.engine.detectron2 import compat
from kd2.engine.detectron2.batch_info import (
    DenseAnchors,
    box_coders,
    gt_boxes,
    has_points,
    padded_size,
    pixel_labels,
    student_images,
)
from kd2.engine.detectron2.models import own_losses
from kd2.engine.detectron2.roi_heads import run_heads, sampled_proposals, scored_by_sigmoids
from kd2.engine.proposals import REASONS, SampledProposals

Batch = list[dict[str, Any]]


def step_of(student: nn.Module, reverse_colors: bool, unlabeled: CfgNode, teacher: BuiltModel | None = None) -> Step:
    """The step of a student; what the losses may know is offered where the heads of the models learn from it.

    Args:
        reverse_colors: whether the teacher reads the color channels in the other order.
        unlabeled: ``KD.UNLABELED``.
        teacher: the one whose predictions are compared; None: no loss looks at them.

    Raises:
        ConfigError: see ``sampled_proposals``.
    """
    dense, pixels = DenseAnchors.of(student), hasattr(student, "sem_seg_head")
    anchors = None if has_points(student) else dense
    boxes = not pixels or hasattr(student, "proposal_generator")
    coders = box_coders(dense, student, teacher.module) if teacher else None
    sampled = sampled_proposals(student, teacher)
    unfit = scored_by_sigmoids(student, teacher.module) if teacher and sampled else ""
    known = {"sizes": True, "images": True, "boxes": boxes, "anchors": anchors is not None, "labels": pixels}
    known |= {"coding": coders is not None, "proposals": sampled is not None and not unfit}
    coding = (dense, *coders) if dense and coders else None
    return Step(
        functools.partial(sampled.run, run_student) if sampled else run_student,
        functools.partial(run_teacher, reverse_colors=reverse_colors, least=unlabeled.SCORE_THRESH, sampled=sampled),
        functools.partial(batch_info, student=student, anchors=anchors, coding=coding, sampled=sampled),
        own_losses(student),
        {name for name, offered in known.items() if offered},
        _reasons(boxes, unfit),
        student_first=sampled is not None,
        unlabeled=bool(unlabeled.DATASETS) and boxes,
    )


def _reasons(boxes: bool, unfit: str) -> dict[str, str]:
    """Why a batch does not offer something, where there is more to say; ``unfit`` of the proposals."""
    own = REASONS | ({"proposals": unfit} if unfit else {})
    return own if boxes else {need: reason for need, reason in own.items() if need != "anchors"}


def run_student(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The student's own losses by name, of the labeled images. Outside a trainer what it logs is dropped."""
    labeled = labeled_images(batch)
    logged = contextlib.nullcontext() if has_event_storage() else EventStorage()
    with logged, sees_whole_batch(student, batch, slice(labeled)):
        return losses_of(student, batch[:labeled])


def losses_of(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The losses of a Detectron2 model in training; those of the pixels are an exact 0 when all pixels are ignored.

    Detectron2's heads average over the pixels that have a class, and give NaN when there is none. One pixel then gets
    class 0, and what follows from it counts 0 times. Looks at the labels on the host, where the loader put them.
    """
    if not _all_ignored(model, batch):
        return model(batch)
    first, *rest = batch
    labels = first["sem_seg"].clone()
    labels[0, 0] = 0
    losses = model([{**first, "sem_seg": labels}, *rest])
    return {name: loss * 0.0 if name.startswith("loss_sem_seg") else loss for name, loss in losses.items()}


def run_teacher(
    teacher: nn.Module, batch: Batch, reverse_colors: bool, least: float, sampled: SampledProposals | None = None
) -> None:
    """The same pixels without their classes; the teacher normalizes and pads them its own way.

    Args:
        reverse_colors: whether the teacher reads the color channels in the other order.
        least: score of the detections that become ``pseudo_boxes`` of the images without labels, if it runs so far.
        sampled: the student's proposals, if the teacher's heads are tapped.
    """
    padded_size([tuple(sample["image"].shape[-2:]) for sample in batch], teacher)  # refuses what it would cut
    samples = [{key: value for key, value in sample.items() if key != "sem_seg"} for sample in batch]
    if reverse_colors:
        samples = [{**sample, "image": sample["image"].flip(0)} for sample in samples]
    labeled = labeled_images(batch)
    if labeled == len(batch):
        run_heads(teacher, samples, sampled) if sampled else teacher(samples)
        return
    seen = [{"image": sample["image"]} for sample in samples]  # without their original sizes: boxes of these pixels
    with sees_whole_batch(teacher, seen, slice(labeled, None)):
        found = teacher(seen[labeled:])
    for sample, output in zip(batch[labeled:], found, strict=True):
        instances = output["instances"]
        sample["pseudo_boxes"] = instances.pred_boxes.tensor[instances.scores >= least].float().cpu()


def labeled_images(batch: Batch) -> int:
    """How many images have labels, be there objects or not; the others follow them."""
    return sum("instances" in sample or "sem_seg" in sample for sample in batch) or len(batch)


@contextlib.contextmanager
def sees_whole_batch(model: nn.Module, batch: Batch, heads: slice) -> Iterator[None]:
    """Inside the block, where ``model`` is called with the part ``heads`` of ``batch``, its backbone sees all of it."""
    if len(batch[heads]) == len(batch):
        yield
        return
    whole = model.preprocess_image(batch)
    part = ImageList(whole.tensor[heads], whole.image_sizes[heads])
    with compat.preprocessed(model, part), sees_all(model.backbone, lambda: whole.tensor, heads):
        yield


def batch_info(
    batch: Batch,
    student: nn.Module,
    anchors: DenseAnchors | None,
    coding: tuple[DenseAnchors, BoxCoder, BoxCoder, int] | None = None,
    sampled: SampledProposals | None = None,
) -> BatchInfo:
    """Boxes and anchors on the host, in pixels of the resized images; classes of pixels and proposals on the device."""
    sizes = [tuple(sample["image"].shape[-2:]) for sample in batch]
    padded = padded_size(sizes, student)
    return BatchInfo(
        sizes,
        padded,
        [gt_boxes(sample) for sample in batch],
        labels=pixel_labels(batch, student),
        anchors=functools.partial(anchors.grids, padded) if anchors else None,
        coding=BoxCoding(functools.partial(coding[0].grids, padded), *coding[1:]) if coding else None,
        proposals=sampled.proposals if sampled else [],
        images=functools.partial(student_images, batch, student),
    )


def _all_ignored(model: nn.Module, batch: Batch) -> bool:
    if "sem_seg" not in batch[0] or not hasattr(model, "sem_seg_head"):
        return False
    ignored = model.sem_seg_head.ignore_value
    return all(bool((sample["sem_seg"] == ignored).all()) for sample in batch)
