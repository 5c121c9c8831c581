"""Detection and instance segmentation with torchvision: RetinaNet, FCOS, Faster and Mask R-CNN."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from kd2.data.detection.records import Records, check_numbers
from kd2.distill import Probe
from kd2.engine.build import BuiltModel, Step
from kd2.engine.checkpoint import teacher_classes
from kd2.engine.lightning.detection.data import (
    Batch,
    DetectionMapper,
    collate,
    finds_masks,
    load_all,
    load_one,
    test_batches,
    training_batches,
)
from kd2.engine.lightning.detection.evaluation import CocoEvaluator, Detections
from kd2.engine.lightning.detection.models import BODY, NoResize, build_detector, first_label, num_classes
from kd2.engine.lightning.detection.step import BLANK, detection_step
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.images import check_classes


class DetectionExperiment(LightningExperiment):
    """A torchvision detector; batches are ``kd2.engine.lightning.detection.data.Batch``."""

    backbone = BODY

    def load_data(self, split: str) -> list[Records]:
        data = load_all(self.cfg, split, self.classes.get("things", ()))
        self.classes = self.class_names(data)
        return data

    def load_one(self, name: str, key: str) -> Records:
        return load_one(self.cfg, name, key)

    def check(self, train: list[Records], tests: list[Records]) -> None:
        check_numbers([*train, *tests])
        check_classes([*train, *tests], *num_classes(self.cfg))

    def build_student(self) -> BuiltModel:
        torch.manual_seed(self.cfg.SEED)
        return self._built(self.cfg, build_detector(self.cfg), "STUDENT", names=self.classes)

    def build_teacher(self) -> BuiltModel:
        own = self.teachers[0].cfg
        model = build_detector(own)
        model.transform = NoResize(model.transform)
        names, key = teacher_classes(self.cfg, "things", self.teachers[0].weights)
        return self._built(own, model, "TEACHER", matched=self.load_teacher(model), names=names, names_key=key)

    def step(self, student: nn.Module, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        return detection_step(student, reverse_colors)

    def class_names(self, data: list[Records]) -> dict[str, list[str]]:
        return {"things": list(data[0].classes)}

    def train_loader(self, data: list[Records], start: int, rank: int, ranks: int) -> DataLoader:
        return training_batches(self.cfg, data, start, rank, ranks)

    def test_loader(self, data: Records, rank: int, ranks: int) -> DataLoader:
        return test_batches(self.cfg, data, rank, ranks)

    def view(self, data: Records) -> tuple[list[dict], Callable[[dict], Batch]]:
        mapper = DetectionMapper(self.cfg, training=True, masks=finds_masks(self.cfg))
        return data.records, functools.partial(self.seen, mapper, collate)

    def evaluator(self, data: Records) -> CocoEvaluator:
        return CocoEvaluator(data, finds_masks(self.cfg), self.cfg.TEST.DETECTIONS_PER_IMAGE)

    def predict(self, student: nn.Module, batch: Batch) -> Detections:
        with torch.autocast(batch.images[0].device.type, enabled=False):
            outputs = student(batch.unit_images)
        return [output | {"labels": output["labels"] - first_label(student)} for output in outputs]

    def _built(self, cfg: CfgNode, model: nn.Module, side: str, **facts: Any) -> BuiltModel:
        key, count = num_classes(cfg)
        probe = Probe(lambda: _run_blank(model), (BLANK, BLANK))
        return self.built(model, probe, side, {"things": (key, count)}, color_order=cfg.INPUT.FORMAT, **facts)


def _run_blank(model: nn.Module) -> None:
    """A forward pass on a blank image in the size that it has."""
    resize, model.transform = model.transform, NoResize(model.transform)
    try:
        model([torch.zeros(3, BLANK, BLANK)])
    finally:
        model.transform = resize
