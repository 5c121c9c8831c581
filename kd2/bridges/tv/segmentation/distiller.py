"""Distillation of torchvision's segmentation networks."""

import functools

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from kd2.bridges.tv.pair import Guide, Kind, build_pair
from kd2.bridges.tv.segmentation.data import Batch
from kd2.bridges.tv.segmentation.mapper import crop_size
from kd2.bridges.tv.segmentation.models import Segmenter, build_segmenter, num_classes
from kd2.core import Distiller, Scene, Taps, rehearsed
from kd2.networks.losses import task_loss

# (H, W) of the rehearsal's blank image where training does not crop.
_BLANK = (256, 256)


class SegmentationDistiller(Distiller):
    """A segmentation network with its teacher. Batches are ``kd2.bridges.tv.segmentation.data.Batch``.

    Args:
        weight, aux_weight: factors of the cross-entropy and of the auxiliary head's.
    """

    def __init__(self, student: Segmenter, guide: Guide | None = None, *, weight: float, aux_weight: float, **parts):
        super().__init__(student, guide.model if guide else None, **parts)
        self.flip_for_teacher = guide is not None and guide.flip
        self.weight, self.aux_weight = weight, aux_weight

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_sem_seg``, and ``loss_sem_seg_aux`` of an auxiliary head; exact zeros without labelled pixels."""
        scores = self.student(self.student.normalised(batch.images, batch.size))
        losses = task_loss(scores["out"], scores.get("aux"), batch.labels, self.aux_weight)
        return {name: self.weight * loss for name, loss in losses.items()}

    def teacher_forward(self, batch: Batch) -> None:
        """The same pixels; the teacher normalises them its own way."""
        images = [image.flip(0) for image in batch.images] if self.flip_for_teacher else batch.images
        self.teacher.model(self.teacher.model.normalised(images, batch.size))

    def scene(self, batch: Batch) -> Scene:
        """Labels and sizes; images as the student's first layer sees them."""
        sizes = [(image.shape[1], image.shape[2]) for image in batch.images]
        images = functools.partial(self.student.normalised, batch.images, batch.size)
        return Scene(sizes, batch.size, labels=batch.labels, images=images)


def build_student(cfg: CfgNode) -> Segmenter:
    """The student with its initial weights drawn from ``SEED``."""
    torch.manual_seed(cfg.SEED)
    return build_segmenter(cfg)


def build_distiller(cfg: CfgNode) -> SegmentationDistiller:
    """The student with its teacher and terms, see ``build_pair``."""
    head = cfg.MODEL.SEM_SEG_HEAD
    size = crop_size(cfg) if cfg.INPUT.CROP.ENABLED else _BLANK
    distiller = functools.partial(SegmentationDistiller, weight=head.LOSS_WEIGHT, aux_weight=head.AUX_WEIGHT)
    kind = Kind(num_classes, build_segmenter, functools.partial(_rehearsed, size=size), distiller)
    return build_pair(cfg, build_student(cfg), kind)


def _rehearsed(model: Segmenter, taps: list[str], key: str, size: tuple[int, int]) -> Taps:
    return rehearsed(model, taps, lambda: model(torch.zeros(1, 3, *size)), size, key)
