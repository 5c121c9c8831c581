"""Distillation as a meta-architecture of Detectron2: ``MODEL.META_ARCHITECTURE: Distiller``."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
from torch import Tensor, nn

from kd2 import distill
from kd2.engine.detectron2.all_ignored import losses_of
from kd2.engine.detectron2.models import build_student, probed_taps, probe_size
from kd2.engine.detectron2.batch_info import StudentAnchors, gt_boxes, padded_size, pixel_labels, student_images
from kd2.engine.detectron2.teacher import Guide, build_teacher, flip_colors
from kd2.losses import active_losses, build_losses

Batch = list[dict[str, Any]]


@META_ARCH_REGISTRY.register()
class Distiller(distill.Distiller):
    """Any Detectron2 model in training beside its teacher. Batches are Detectron2's: a list with a dict an image.

    Args:
        student: the model of ``KD.STUDENT.META_ARCHITECTURE``.
        flip_for_teacher: reverse the color channels for the teacher.
        others: see ``kd2.distill.Distiller``.
    """

    @configurable
    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: nn.Module | None = None,
        flip_for_teacher: bool = False,
        student_taps: distill.Taps | None = None,
        teacher_taps: distill.Taps | None = None,
        losses: Mapping[str, nn.Module] | None = None,
        uses: Mapping[str, distill.LossConfig] | None = None,
        seed: int = 0,
        batch_statistics: bool = False,
    ):
        super().__init__(student, teacher, student_taps, teacher_taps, losses, uses, seed, batch_statistics)
        self.flip_for_teacher = flip_for_teacher
        self.anchors = StudentAnchors.of(student)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return build_parts(cfg)[0]

    @property
    def device(self) -> torch.device:
        """Where the student lives."""
        return next(self.student.parameters()).device

    def forward(self, batch: Batch) -> Any:
        """The losses in training, the student's output in eval mode; the iteration is the trainer's."""
        if self.training and has_event_storage():
            self.iteration = get_event_storage().iter
        return super().forward(batch)

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The student's own losses. Outside a trainer what it logs is dropped."""
        if has_event_storage():
            return losses_of(self.student, batch)
        with EventStorage(self.iteration):
            return losses_of(self.student, batch)

    def teacher_forward(self, batch: Batch) -> None:
        """The same pixels without their classes; the teacher normalizes and pads them its own way."""
        samples = [{key: value for key, value in sample.items() if key != "sem_seg"} for sample in batch]
        if self.flip_for_teacher:
            samples = [{**sample, "image": sample["image"].flip(0)} for sample in samples]
        self.teacher.model(samples)

    def batch_info(self, batch: Batch) -> distill.BatchInfo:
        """Boxes and anchors on the host, in pixels of the resized images; classes of the pixels on the device."""
        sizes = [tuple(sample["image"].shape[-2:]) for sample in batch]
        padded = padded_size(sizes, self.student.backbone)
        anchors = functools.partial(self.anchors.grids, padded) if self.anchors else None
        return distill.BatchInfo(
            sizes,
            padded,
            [gt_boxes(sample) for sample in batch],
            labels=pixel_labels(batch, self.student),
            anchors=anchors,
            images=functools.partial(student_images, batch, self.student),
        )


def build_parts(cfg: CfgNode) -> tuple[dict[str, Any], Guide | None]:
    """The arguments of ``Distiller`` for a config, and the teacher when some loss counts.

    The student is built first and the rest draws nothing from its random stream, so it starts like the plain model of
    the same seed. Without active losses nothing of the teacher is read.
    """
    student = build_student(cfg)
    blocks = active_losses(cfg.KD.LOSSES)
    if not blocks:
        return {"student": student, "seed": cfg.SEED}, None
    with torch.random.fork_rng(devices=[]):
        guide = build_teacher(cfg, student)
        size = probe_size(cfg)
        student_taps = probed_taps(student, cfg, cfg.KD.STUDENT.TAPS, "KD.STUDENT.TAPS", size)
        teacher_taps = probed_taps(guide.model, guide.cfg, cfg.KD.TEACHER.TAPS, "KD.TEACHER.TAPS", size)
        losses, uses = build_losses(blocks, student_taps.specs, teacher_taps.specs)
    parts = {
        "student": student,
        "teacher": guide.model,
        "flip_for_teacher": flip_colors(cfg.INPUT.FORMAT, guide.cfg.INPUT.FORMAT),
        "student_taps": student_taps,
        "teacher_taps": teacher_taps,
        "losses": losses,
        "uses": uses,
        "seed": cfg.SEED,
        "batch_statistics": cfg.KD.TEACHER.BATCH_STATISTICS,
    }
    return parts, guide
