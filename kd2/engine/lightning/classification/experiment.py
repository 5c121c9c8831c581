"""Classification with timm."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd2.config.epochs import write_iterations
from kd2.data.classification.batches import Batch
from kd2.data.classification.image_dataset import ImageDataset, of_one_run
from kd2.distill import BatchInfo, ConfigError, Distiller, Probe
from kd2.engine.build import BuiltModel, Step
from kd2.engine.lightning.classification.cached import CachedTeacher
from kd2.engine.lightning.classification.data import test_batches, training_batches, views_of
from kd2.engine.lightning.classification.evaluation import ClassificationEvaluator, Logits
from kd2.engine.lightning.classification.models import Normalize, build_model
from kd2.engine.lightning.classification.module import ClassificationModule
from kd2.engine.lightning.classification.sources import check_classes, labeled, load_all, load_one
from kd2.engine.lightning.classification.teacher import build_teacher
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.losses import active_losses

logger = logging.getLogger(__name__)


class ClassificationExperiment(LightningExperiment):
    """A classifier of timm; batches are ``kd2.engine.lightning.classification.data.Batch``."""

    backbone = ""

    @functools.cached_property
    def teacher_size(self) -> int | None:
        """``INPUT.SIZE`` of the largest teacher; None when no loss counts."""
        return max(source.cfg.INPUT.SIZE for source in self.teachers) if active_losses(self.cfg.KD.LOSSES) else None

    @functools.cached_property
    def normalize(self) -> Normalize:
        """The student's input from pixels in [0, 1]."""
        return Normalize(self.cfg)

    def load_data(self, split: str) -> list[ImageDataset]:
        data = load_all(self.cfg, split)
        if split == "TRAIN" and not self.cfg.KD.TASK_WEIGHT:
            return data  # their labels play no part
        data = of_one_run(data, self.cfg.MODEL.CLASSES or self.classes.get("images", ()))
        self.classes = {"images": list(data[0].classes)}
        return data

    def load_one(self, name: str, key: str) -> ImageDataset:
        return load_one(self.cfg, name, key)

    def check(self, train: list[ImageDataset], tests: list[ImageDataset]) -> None:
        """Write class names, and epochs as iterations, into the config too."""
        cfg = self.cfg
        if not (active_losses(cfg.KD.LOSSES) or cfg.KD.TASK_WEIGHT or self.args.eval_only):
            raise ConfigError("KD.TASK_WEIGHT is 0 and no loss of KD.LOSSES counts: there is nothing to learn from")
        check_classes(cfg, [*train, *tests])
        if not cfg.MODEL.CLASSES:
            known = [d for d in [*tests, *train] if labeled(cfg, d)]
            cfg.MODEL.CLASSES = list(known[0].classes) if known else []
        if train:
            images = sum(map(len, train))
            write_iterations(cfg, images)
            step = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE
            epochs = cfg.SOLVER.MAX_ITER * step / images
            logger.info("%d iterations of %d images: %.4g epochs", cfg.SOLVER.MAX_ITER, step, epochs)

    def new_student(self) -> BuiltModel:
        cfg = self.cfg
        torch.manual_seed(cfg.SEED)
        facts = {"model": cfg.MODEL.NAME, "input size": cfg.INPUT.SIZE, "sees": self._crops()[0]}
        return self._built(build_model(cfg), "STUDENT", cfg.INPUT.SIZE, cfg.MODEL.NUM_CLASSES, facts=facts)

    def build_teacher(self, node: str = "KD.TEACHER") -> BuiltModel:
        cfg = self.cfg
        teacher = build_teacher(self.teachers, cfg.MODEL.CLASSES, cfg.KD.TEACHER.ALLOW_PARTIAL)
        self.teacher_normalize = teacher.normalize
        module = CachedTeacher(teacher.module) if cfg.KD.VIEWS.CACHE else teacher.module
        classes = self.teachers[0].cfg.MODEL.NUM_CLASSES
        facts = {"model": teacher.name, "input size": teacher.size, "sees": self._crops()[1]}
        return self._built(module, "TEACHER", teacher.size, classes, matched=teacher.matched, facts=facts)

    def step(self, student: nn.Module, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        cfg = self.cfg
        run = functools.partial(
            _run_student,
            normalize=self.normalize,
            task_weight=cfg.KD.TASK_WEIGHT,
            smoothing=cfg.MODEL.LABEL_SMOOTHING,
        )
        return Step(run, self.teacher_logits, _batch_info, {"loss_cls"}, {"sizes", "labels"})

    def class_names(self, data: list[ImageDataset]) -> dict[str, list[str]]:
        return {"images": list(self.cfg.MODEL.CLASSES)}

    def module(
        self, distiller: Distiller, train: list[ImageDataset], classes: dict[str, list[str]]
    ) -> ClassificationModule:
        return ClassificationModule(
            distiller,
            self.cfg,
            classes,
            self.evaluator,
            self.predict,
            train=train,
            normalize=self.normalize,
            teacher_logits=self.teacher_logits,
        )

    def train_loader(self, data: list[ImageDataset], start: int, rank: int, ranks: int) -> DataLoader:
        return self._batches(data, start, rank, ranks)

    def dry_loader(self, data: list[ImageDataset]) -> DataLoader:
        return self._batches(data, start=0, rank=0, ranks=1, dry=True)

    def test_loader(self, data: ImageDataset, rank: int, ranks: int) -> DataLoader:
        teacher = self.teacher_size if self.cfg.TEST.TEACHER and not self.args.eval_only else None
        return test_batches(self.cfg, data, teacher, rank, ranks)

    def view(self, data: ImageDataset) -> tuple[list[dict], Callable[[dict], Batch]]:
        raise ConfigError("FRAMEWORK is timm: pictures are drawn of detectors and segmentation networks alone")

    def evaluator(self, data: ImageDataset) -> ClassificationEvaluator:
        return ClassificationEvaluator(self.cfg.MODEL.NUM_CLASSES)

    def predict(self, student: nn.Module, batch: Batch) -> Logits:
        with torch.autocast(batch.images.device.type, enabled=False):
            return Logits(student(self.normalize(batch.images)), None)

    def teacher_logits(self, teacher: nn.Module, batch: Batch) -> Tensor:
        """(N, K) of the teacher: its own normalization of the pixels that are meant for it, or its cached logits."""
        return teacher(self.teacher_normalize(batch.teacher) if batch.targets is None else batch.targets)

    def _batches(self, data: list[ImageDataset], start: int, rank: int, ranks: int, dry: bool = False) -> DataLoader:
        teachers = self.teachers if self.teacher_size else []
        return training_batches(self.cfg, data, teachers, start, rank, ranks, dry)

    def _built(self, model: nn.Module, side: str, size: int, classes: int, **facts: Any) -> BuiltModel:
        blank = torch.zeros(1, 3, size, size, dtype=next(model.parameters()).dtype)
        probe = Probe(lambda: model(blank), (size, size))
        return self.built(model, probe, side, {"images": ("MODEL.NUM_CLASSES", classes)}, **facts)

    def _crops(self) -> tuple[str, str]:
        mode = views_of(self.cfg, self.teacher_size).mode
        mixed = " + mixup" if mode.mixup else ""
        other = {"same": "the same", "ind": f"another {mode.teacher}", "fix": f"fixed {mode.teacher}"}[mode.relation]
        return mode.student + mixed, other


def _run_student(
    student: nn.Module, batch: Batch, normalize: Normalize, task_weight: float, smoothing: float
) -> dict[str, Tensor]:
    """``loss_cls``: cross-entropy with the labels, hard or mixed; an exact zero when they play no part."""
    logits = student(normalize(batch.images)).float()
    if not task_weight:
        return {"loss_cls": logits.mean() * 0.0}
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    return {"loss_cls": loss if task_weight == 1 else task_weight * loss}


def _batch_info(batch: Batch) -> BatchInfo:
    """Whole images of one size, with their labels."""
    size = (batch.images.shape[2], batch.images.shape[3])
    return BatchInfo([size] * len(batch.images), size, labels=batch.labels)
