"""Distillation of torchvision's segmentation networks."""

import functools

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from kd2.engine.lightning.pair import Guide, Kind, build_pair
from kd2.engine.lightning.segmentation.data import Batch
from kd2.engine.lightning.segmentation.mapper import crop_size
from kd2.engine.lightning.segmentation.models import Segmenter, build_segmenter, num_classes
from kd2.distill import Distiller, BatchInfo, Taps, probed
from kd2.networks.losses import task_loss

# (H, W) of the probe's blank image where training does not crop.
_BLANK = (256, 256)


class SegmentationDistiller(Distiller):
    """A segmentation network with its teacher. Batches are ``kd2.engine.lightning.segmentation.data.Batch``.

    Args:
        weight, aux_weight: factors of the cross-entropy and of the auxiliary head's.
    """

    def __init__(self, student: Segmenter, guide: Guide | None = None, *, weight: float, aux_weight: float, **parts):
        super().__init__(student, guide.model if guide else None, **parts)
        self.flip_for_teacher = guide is not None and guide.flip
        self.weight, self.aux_weight = weight, aux_weight

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_sem_seg``, and ``loss_sem_seg_aux`` of an auxiliary head; exact zeros without labeled pixels."""
        scores = self.student(self.student.normalized(batch.images, batch.size))
        losses = task_loss(scores["out"], scores.get("aux"), batch.labels, self.aux_weight)
        return {name: self.weight * loss for name, loss in losses.items()}

    def teacher_forward(self, batch: Batch) -> None:
        """The same pixels; the teacher normalizes them its own way."""
        images = [image.flip(0) for image in batch.images] if self.flip_for_teacher else batch.images
        self.teacher.model(self.teacher.model.normalized(images, batch.size))

    def batch_info(self, batch: Batch) -> BatchInfo:
        """Labels and sizes; images as the student's first layer sees them."""
        sizes = [(image.shape[1], image.shape[2]) for image in batch.images]
        images = functools.partial(self.student.normalized, batch.images, batch.size)
        return BatchInfo(sizes, batch.size, labels=batch.labels, images=images)


def build_student(cfg: CfgNode) -> Segmenter:
    """The student with its initial weights drawn from ``SEED``."""
    torch.manual_seed(cfg.SEED)
    return build_segmenter(cfg)


def build_distiller(cfg: CfgNode) -> SegmentationDistiller:
    """The student with its teacher and losses, see ``build_pair``."""
    head = cfg.MODEL.SEM_SEG_HEAD
    size = crop_size(cfg) if cfg.INPUT.CROP.ENABLED else _BLANK
    distiller = functools.partial(SegmentationDistiller, weight=head.LOSS_WEIGHT, aux_weight=head.AUX_WEIGHT)
    kind = Kind(num_classes, build_segmenter, functools.partial(_probed, size=size), distiller)
    return build_pair(cfg, build_student(cfg), kind)


def _probed(model: Segmenter, taps: list[str], key: str, size: tuple[int, int]) -> Taps:
    return probed(model, taps, lambda: model(torch.zeros(1, 3, *size)), size, key)
