"""Distillation of classifiers."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.engine.lightning.classification.cached import CachedTeacher
from kd2.engine.lightning.classification.data import Batch, views_of
from kd2.engine.lightning.classification.models import Normalize, build_model
from kd2.engine.lightning.classification.teacher import Guide, build_teacher
from kd2.distill import ConfigError, Distiller, BatchInfo, probed
from kd2.losses.registry import active_losses, build_losses


class ClassifierDistiller(Distiller):
    """A classifier with its teacher. Batches are ``kd2.engine.lightning.classification.data.Batch``.

    Args:
        normalize: the student's input from pixels in [0, 1].
        task_weight, smoothing: of the student's own cross-entropy; weight 0 leaves the labels out.
    """

    def __init__(
        self,
        student: nn.Module,
        normalize: Normalize,
        task_weight: float,
        smoothing: float,
        guide: Guide | None = None,
        **parts,
    ):
        super().__init__(student, guide.model if guide else None, **parts)
        self.normalize, self.task_weight, self.smoothing = normalize, task_weight, smoothing
        self.teacher_normalize = guide.normalize if guide else None

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls``: cross-entropy with the labels, hard or mixed; an exact zero when they play no part."""
        logits = self.student(self.normalize(batch.images)).float()
        if not self.task_weight:
            return {"loss_cls": logits.mean() * 0.0}
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        return {"loss_cls": loss if self.task_weight == 1 else self.task_weight * loss}

    def teacher_forward(self, batch: Batch) -> None:
        """The teacher's own normalization of the pixels that are meant for it, or its cached logits."""
        self.teacher_logits(batch)

    def teacher_logits(self, batch: Batch) -> Tensor:
        """(N, K) logits of the teacher for a batch."""
        return self.teacher.model(self.teacher_normalize(batch.teacher) if batch.targets is None else batch.targets)

    def batch_info(self, batch: Batch) -> BatchInfo:
        """Whole images of one size, with their labels."""
        size = (batch.images.shape[2], batch.images.shape[3])
        return BatchInfo([size] * len(batch.images), size, labels=batch.labels)


def build_student(cfg: CfgNode) -> nn.Module:
    """The student with its initial weights drawn from ``SEED``."""
    torch.manual_seed(cfg.SEED)
    return build_model(cfg)


def build_distiller(cfg: CfgNode) -> ClassifierDistiller:
    """Student, and teacher and losses when some loss counts; making them does not move the student's random stream."""
    student = build_student(cfg)
    own = (student, Normalize(cfg), cfg.KD.TASK_WEIGHT, cfg.MODEL.LABEL_SMOOTHING)
    blocks = active_losses(cfg.KD.LOSSES)
    if not blocks:
        if not cfg.KD.TASK_WEIGHT:
            raise ConfigError("KD.TASK_WEIGHT is 0 and no loss of KD.LOSSES counts: there is nothing to learn from")
        return ClassifierDistiller(*own, seed=cfg.SEED)
    with torch.random.fork_rng(devices=[]):
        guide = build_teacher(cfg)
        teacher = CachedTeacher(guide.model) if cfg.KD.VIEWS.CACHE else guide.model
        guide = replace(guide, model=teacher)
        student_taps = _probed(student, cfg.KD.STUDENT.TAPS, cfg.INPUT.SIZE, "KD.STUDENT.TAPS")
        teacher_taps = _probed(teacher, cfg.KD.TEACHER.TAPS, guide.size, "KD.TEACHER.TAPS")
        losses, uses = build_losses(blocks, student_taps.specs, teacher_taps.specs)
    distiller = ClassifierDistiller(
        *own, guide, student_taps=student_taps, teacher_taps=teacher_taps, losses=losses, uses=uses, seed=cfg.SEED,
        batch_statistics=cfg.KD.TEACHER.BATCH_STATISTICS,
    )
    distiller.facts = {
        "model": (cfg.MODEL.NAME, guide.names),
        "classes": (cfg.MODEL.NUM_CLASSES, guide.classes),
        "input size": (cfg.INPUT.SIZE, guide.size),
        "sees": _crops(cfg),
        "matched weights": ("from scratch", f"{100 * guide.matched:.1f} %"),
    }
    return distiller


def _crops(cfg: CfgNode) -> tuple[str, str]:
    mode = views_of(cfg).mode
    mixed = " + mixup" if mode.mixup else ""
    other = {"same": "the same", "ind": f"another {mode.teacher}", "fix": f"fixed {mode.teacher}"}[mode.relation]
    return mode.student + mixed, other


def _probed(model: nn.Module, taps: list[str], size: int, key: str):
    like = next(model.parameters())
    blank = torch.zeros(1, 3, size, size, dtype=like.dtype)
    return probed(model, list(taps), lambda: model(blank), (size, size), key)
