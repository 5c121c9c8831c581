"""Detection and instance segmentation with torchvision: RetinaNet, FCOS, Faster and Mask R-CNN."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd2.config import teacher_blocks
from kd2.data.detection.records import Records, check_numbers
from kd2.distill import Probe
from kd2.engine.build import BuiltModel, Step
from kd2.engine.lightning.detection.conventions import in_model_names
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
from kd2.engine.lightning.detection.models import (
    BODY,
    NoResize,
    build_detector,
    dense_head,
    first_label,
    num_classes,
)
from kd2.engine.lightning.detection.published import blank_side, published_detector
from kd2.engine.lightning.detection.step import detection_step
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.images import check_classes
from kd2.engine.lightning.trainer import uses_gpu
from kd2.engine.lightning.zoo_inputs import tell_other_inputs
from kd2.engine.weights.checkpoint import teacher_classes
from kd2.engine.weights.matching import Match

logger = logging.getLogger(__name__)


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
        check_classes([d for d in (*train, *tests) if d.classes], *num_classes(self.cfg))

    def new_student(self) -> BuiltModel:
        torch.manual_seed(self.cfg.SEED)
        return self._built(self.cfg, build_detector(self.cfg), "STUDENT", num_classes(self.cfg), names=self.classes)

    def build_teacher(self, node: str = "KD.TEACHER") -> BuiltModel:
        source, known = self.source(node), []
        if source.builder:
            model, count, known = published_detector(source, min(self.cfg.INPUT.MIN_SIZE_TRAIN))
            classes = source.weights_key, count
        else:
            model, classes = build_detector(source.cfg), num_classes(source.cfg)
            tell_other_inputs(source.cfg, source.weights, source.weights_key)
        names, key = teacher_classes(self.cfg, "things", source.weights, node, known)
        model.transform = NoResize(model.transform)
        facts = {"matched": self.load_teacher(model, source), "names": names, "names_key": key}
        return self._built(source.cfg, model, node.removeprefix("KD."), classes, **facts)

    def load_weights(self, student: nn.Module, path: str, key: str, partial: bool) -> Match:
        tell_other_inputs(self.cfg, path, key)
        return super().load_weights(student, path, key, partial)

    def read_weights(self, model: nn.Module, path: str, key: str) -> dict[str, Tensor]:
        generator = getattr(dense_head(model), "anchor_generator", None)
        state, left = in_model_names(super().read_weights(model, path, key), generator, f"{key}: {path}")
        if left:
            logger.warning("%s: %s is a Cascade R-CNN, its stages behind the first are left out", key, path)
        return state

    def step(self, student: nn.Module, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        return detection_step(student, reverse_colors, self.cfg.KD.UNLABELED, teacher)

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

    @torch.no_grad()
    def find(self, student: nn.Module, data: Records) -> list[dict[str, Any]]:
        device = torch.device("cuda" if uses_gpu(self.cfg) else "cpu")
        student.to(device)
        evaluator = self.evaluator(data)
        for batch in self.test_loader(data, rank=0, ranks=1):
            evaluator.process(batch, self.predict(student, batch.to(device)))
        return evaluator.detections

    def _built(self, cfg: CfgNode, model: nn.Module, side: str, classes: tuple[str, int], **facts: Any) -> BuiltModel:
        blank = max(blank_side(block["CONFIG_FILE"]) for block in teacher_blocks(self.cfg).values())
        probe = Probe(lambda: _run_blank(model, blank), (blank, blank))
        return self.built(model, probe, side, {"things": classes}, color_order=cfg.INPUT.FORMAT, **facts)


def _run_blank(model: nn.Module, side: int) -> None:
    """A forward pass on a blank image in the size that it has."""
    resize, model.transform = model.transform, NoResize(model.transform)
    try:
        model([torch.zeros(3, side, side)])
    finally:
        model.transform = resize
