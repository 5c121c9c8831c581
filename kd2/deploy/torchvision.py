"""torchvision's detectors and segmentation networks with what stands around them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd2.data.detection.records import Records
from kd2.data.images import read_record_image
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.deploy.pixels import shortest_side, sides
from kd2.deploy.predictor import Found, Predictor, facts_of
from kd2.deploy.test_set import Scores, TestSet
from kd2.engine.lightning.detection.data import Batch as DetectionBatch
from kd2.engine.lightning.detection.experiment import DetectionExperiment
from kd2.engine.lightning.detection.models import first_label
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.segmentation.data import Batch as SegmentationBatch
from kd2.engine.lightning.segmentation.data import window
from kd2.networks.window import enlarged, predict


def predictor(experiment: LightningExperiment, student: nn.Module) -> Predictor:
    """The student of a run as what predicts."""
    return (_Detector if isinstance(experiment, DetectionExperiment) else _Segmenter)(experiment, student)


class _Detector(Predictor):
    """torchvision's detectors resize and normalize by themselves."""

    def __init__(self, experiment: DetectionExperiment, student: nn.Module):
        cfg = experiment.cfg
        name = cfg.MODEL.META_ARCHITECTURE
        task = "instances" if name == "MaskRCNN" else "detection"
        super().__init__(
            student, facts_of(cfg, task, name, experiment.classes.get("things", ())), cfg.INPUT.FORMAT == "BGR"
        )
        self.first = first_label(student)

    def found(self, images: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.student([images.float() / 255])
        masks = [found["masks"][:, 0]] if "masks" in found else []
        return found["boxes"], found["scores"], found["labels"] - self.first, *masks


class _Segmenter(Predictor):
    """``TEST.WINDOW`` cuts as in evaluation; the scores are probabilities."""

    any_batch = True

    def __init__(self, experiment: LightningExperiment, student: nn.Module):
        cfg = experiment.cfg
        name, classes = cfg.MODEL.META_ARCHITECTURE, experiment.classes.get("stuff", ())
        super().__init__(student, facts_of(cfg, "segmentation", name, classes), cfg.INPUT.FORMAT == "BGR")
        self.size, self.window = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST), window(cfg)

    def found(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = (shortest_side(images, *self.size) - self.student.mean) / self.student.std
        scores = predict(lambda x: self.student(x)["out"], pixels, *self.window)
        return (enlarged(scores, sides(images)).softmax(1),)


def test_set(experiment: LightningExperiment, data: Records | SemanticRecords) -> TestSet:
    """A test set of a run with its evaluator."""
    return (_Objects if isinstance(data, Records) else _Labels)(experiment, data)


class _Recorded(TestSet):
    def __init__(self, experiment: LightningExperiment, data: Any):
        self.data, self.pixel_range = data, experiment.cfg.INPUT.PIXEL_RANGE
        self.evaluator = experiment.evaluator(data)

    def __len__(self) -> int:
        return len(self.data.records)

    def picture(self, index: int) -> np.ndarray:
        return read_record_image(self.data.records[index], self.pixel_range)

    def scores(self) -> Scores:
        return self.evaluator.evaluate()


class _Objects(_Recorded):
    def take(self, index: int, found: Found) -> None:
        output = {name: torch.from_numpy(x) for name, x in found.items()}
        if "masks" in output:
            output["masks"] = output["masks"][:, None]
        self.evaluator.process(DetectionBatch([], [], [], [self.data.records[index]]), [output])


class _Labels(_Recorded):
    def take(self, index: int, found: Found) -> None:
        record = self.data.records[index]
        labels = torch.from_numpy(self.data.labels.of(record)).long()[None]
        self.evaluator.process(
            SegmentationBatch([], labels, [record], labels.shape[1:]), torch.from_numpy(found["labels"])[None]
        )
