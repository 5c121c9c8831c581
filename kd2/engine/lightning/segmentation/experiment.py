"""Semantic segmentation with torchvision: PSPNet, DeepLabV3, FCN, LR-ASPP, semantic FPN, ESPNet."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader

from kd2.config import train_size
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.distill import BatchInfo, Probe
from kd2.engine.build import BuiltModel, Step
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.published import categories
from kd2.engine.lightning.segmentation.data import (
    Batch,
    check,
    collate,
    load_all,
    load_one,
    test_batches,
    training_batches,
    window,
)
from kd2.engine.lightning.segmentation.evaluation import SemSegEvaluator
from kd2.engine.lightning.segmentation.mapper import SemanticMapper
from kd2.engine.lightning.segmentation.models import (
    BODY,
    Segmenter,
    build_segmenter,
    num_classes,
    published_segmenter,
)
from kd2.engine.weights.checkpoint import teacher_classes
from kd2.networks.losses import task_loss
from kd2.networks.window import enlarged, predict

# (H, W) of a blank image where training does not crop.
_BLANK = (256, 256)


class SegmentationExperiment(LightningExperiment):
    """A segmentation network; batches are ``kd2.engine.lightning.segmentation.data.Batch``."""

    backbone = BODY

    def load_data(self, split: str) -> list[SemanticRecords]:
        data = load_all(self.cfg, split, self.classes.get("stuff", ()))
        self.classes = self.class_names(data)
        return data

    def load_one(self, name: str, key: str) -> SemanticRecords:
        return load_one(self.cfg, name, key)

    def check(self, train: list[SemanticRecords], tests: list[SemanticRecords]) -> None:
        check(self.cfg, [*train, *tests])

    def new_student(self) -> BuiltModel:
        torch.manual_seed(self.cfg.SEED)
        return self._built(self.cfg, build_segmenter(self.cfg), "STUDENT", num_classes(self.cfg), names=self.classes)

    def build_teacher(self, node: str = "KD.TEACHER") -> BuiltModel:
        source, known = self.source(node), []
        if source.builder:
            model, count = published_segmenter(source)
            known, classes = categories(source.weights, source.weights_key), (source.weights_key, count)
        else:
            model, classes = build_segmenter(source.cfg), num_classes(source.cfg)
        names, key = teacher_classes(self.cfg, "stuff", source.weights, node, known)
        facts = {"matched": self.load_teacher(model, source), "names": names, "names_key": key}
        return self._built(source.cfg, model, node.removeprefix("KD."), classes, **facts)

    def step(self, student: Segmenter, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        head = self.cfg.MODEL.SEM_SEG_HEAD
        return Step(
            functools.partial(_run_student, weight=head.LOSS_WEIGHT, aux_weight=head.AUX_WEIGHT),
            functools.partial(_run_teacher, reverse_colors=reverse_colors),
            functools.partial(_batch_info, student=student),
            {"loss_sem_seg", "loss_sem_seg_aux"},
            {"sizes", "labels", "images"},
        )

    def class_names(self, data: list[SemanticRecords]) -> dict[str, list[str]]:
        return {"stuff": list(next(d.classes for d in data if d.classes))}

    def train_loader(self, data: list[SemanticRecords], start: int, rank: int, ranks: int) -> DataLoader:
        return training_batches(self.cfg, data, start, rank, ranks)

    def test_loader(self, data: SemanticRecords, rank: int, ranks: int) -> DataLoader:
        return test_batches(self.cfg, data, rank, ranks)

    def view(self, data: SemanticRecords) -> tuple[list[dict], Callable[[dict], Batch]]:
        mapper = SemanticMapper(self.cfg, [data], training=True)
        return data.records, functools.partial(self.seen, mapper, collate)

    def evaluator(self, data: SemanticRecords) -> SemSegEvaluator:
        return SemSegEvaluator(data.classes)

    def predict(self, student: Segmenter, batch: Batch) -> Tensor:
        """Classes (1, H, W) of one image in its original size."""
        with torch.autocast(batch.images[0].device.type, enabled=False):
            images = student.normalized(batch.images, batch.images[0].shape[1:])
            scores = predict(lambda x: student(x)["out"], images, *window(self.cfg))
        return enlarged(scores, batch.size).argmax(1)

    def _built(self, cfg: CfgNode, model: Segmenter, side: str, classes: tuple[str, int], **facts: Any) -> BuiltModel:
        size = train_size(self.cfg) or _BLANK
        probe = Probe(lambda: model(torch.zeros(1, 3, *size)), size)
        return self.built(model, probe, side, {"stuff": classes}, color_order=cfg.INPUT.FORMAT, **facts)


def _run_student(student: Segmenter, batch: Batch, weight: float, aux_weight: float) -> dict[str, Tensor]:
    """``loss_sem_seg``, and ``loss_sem_seg_aux`` of an auxiliary head; exact zeros without labeled pixels."""
    scores = student(student.normalized(batch.images, batch.size))
    losses = task_loss(scores["out"], scores.get("aux"), batch.labels, aux_weight)
    return {name: weight * loss for name, loss in losses.items()}


def _run_teacher(teacher: Segmenter, batch: Batch, reverse_colors: bool) -> None:
    """The same pixels; the teacher normalizes them its own way."""
    images = [image.flip(0) for image in batch.images] if reverse_colors else batch.images
    teacher(teacher.normalized(images, batch.size))


def _batch_info(batch: Batch, student: Segmenter) -> BatchInfo:
    """Labels and sizes; images as the student's first layer sees them."""
    sizes = [(image.shape[1], image.shape[2]) for image in batch.images]
    images = functools.partial(student.normalized, batch.images, batch.size)
    return BatchInfo(sizes, batch.size, labels=batch.labels, images=images)
