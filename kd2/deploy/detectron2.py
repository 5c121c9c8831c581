"""Detectron2's models with what stands around them."""

import tempfile

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from kd2.deploy.pixels import pasted, shortest_side, sides
from kd2.deploy.predictor import Found, Predictor, facts_of
from kd2.deploy.test_set import Scores, TestSet
from kd2.distill import ConfigError
from kd2.engine.detectron2 import lazy
from kd2.engine.detectron2.data.detection import record_pixels
from kd2.engine.detectron2.experiment import Detectron2Experiment
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.detectron2.windows import windowed


def predictor(experiment: Detectron2Experiment, student: nn.Module) -> Predictor:
    """The student of a run as what predicts.

    Raises:
        ConfigError: a model that finds something else than boxes, masks or classes of pixels; a format of pictures
            other than RGB and BGR.
    """
    cfg = experiment.cfg
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, prediction knows RGB and BGR")
    if isinstance(student, SemanticSegmentor):
        return _Segmenter(experiment, student)
    plain = isinstance(student, (DenseDetector, GeneralizedRCNN)) and not isinstance(student, PanopticFPN)
    if not plain or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        name = cfg.MODEL.META_ARCHITECTURE + " with keypoints or given proposals" * plain
        raise ConfigError(f"MODEL.META_ARCHITECTURE: prediction does not know {name}, only boxes, masks and pixels")
    return _Detector(experiment, student)


class _Traced(Predictor):
    def traceable(self, image: Tensor) -> nn.Module:
        return TracingAdapter(self, image).eval()  # in it the number of detections is no constant


class _Detector(_Traced):
    def __init__(self, experiment: Detectron2Experiment, student: nn.Module):
        cfg = experiment.cfg
        self.masks = isinstance(student, GeneralizedRCNN) and cfg.MODEL.MASK_ON
        task = "instances" if self.masks else "detection"
        facts = facts_of(cfg, task, _detector_name(student, self.masks), experiment.classes.get("things", ()))
        super().__init__(student, facts, cfg.INPUT.FORMAT == "BGR")
        self.size = _test_size(cfg)

    def found(self, images: Tensor) -> tuple[Tensor, ...]:
        sample = {"image": shortest_side(images[None], *self.size)[0]}
        height, width = sides(images)
        if isinstance(self.student, GeneralizedRCNN):
            (instances,) = self.student.inference([sample], do_postprocess=False)
        else:
            instances = self.student([sample])[0]["instances"]
        if self.masks:  # pasted here: Detectron2's pasting cannot be recorded for pictures of any size
            instances.cells = instances.pred_masks[:, 0]
            instances.remove("pred_masks")
        instances = detector_postprocess(instances, height, width)
        boxes = instances.pred_boxes.tensor
        masks = [pasted(instances.cells, boxes, height, width)] if self.masks else []
        return boxes, instances.scores, instances.pred_classes, *masks


def _test_size(cfg: CfgNode) -> tuple[int, int]:
    """Shorter and longest side of a tested picture, by ``INPUT`` or the mapper of a LazyConfig file.

    Raises:
        ConfigError: that mapper does something else than resizing.
    """
    mapper = lazy.mapper_options(cfg, "test")
    if mapper is None:
        return cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    steps = mapper["augmentations"]
    sizes = {size for step in steps if isinstance(step, ResizeShortestEdge) for size in step.short_edge_length}
    if len(steps) != 1 or len(sizes) != 1:
        names = [type(step).__name__ for step in steps]
        raise ConfigError(
            f"{cfg.MODEL.LAZY_CONFIG}: dataloader.test.mapper.augmentations is {names}, prediction knows one "
            "ResizeShortestEdge with one length"
        )
    return sizes.pop(), steps[0].max_size


def _detector_name(student: nn.Module, masks: bool) -> str:
    """What people call a detector; the name of its heads where they are none of Detectron2's usual ones."""
    if not isinstance(student, GeneralizedRCNN):
        return type(student).__name__
    heads = type(student.roi_heads).__name__
    mask_head = type(student.roi_heads.mask_head).__name__ if masks else ""
    if masks and mask_head != "MaskRCNNConvUpsampleHead":
        return mask_head
    plain, masked = {
        "StandardROIHeads": ("FasterRCNN", "MaskRCNN"),
        "CascadeROIHeads": ("CascadeRCNN", "CascadeMaskRCNN"),
    }.get(heads, (heads, heads))
    return masked if masks else plain


class _Segmenter(_Traced):
    """The scores are probabilities."""

    def __init__(self, experiment: Detectron2Experiment, student: nn.Module):
        cfg = experiment.cfg
        name, classes = type(student.sem_seg_head).__name__, experiment.classes.get("stuff", ())
        super().__init__(student, facts_of(cfg, "segmentation", name, classes), cfg.INPUT.FORMAT == "BGR")
        self.size, self.whole = _test_size(cfg), windowed(cfg, student)

    def found(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = sides(images)
        pixels = shortest_side(images, *self.size)
        scores = self.whole([{"image": image, "height": height, "width": width} for image in pixels])
        return (torch.stack([x["sem_seg"] for x in scores]).softmax(1),)


def test_set(experiment: Detectron2Experiment, data: str) -> TestSet:
    """A test set of a run, by its name in Detectron2's catalogs, with its evaluator."""
    return _Catalogued(experiment, data)


class _Catalogued(TestSet):
    def __init__(self, experiment: Detectron2Experiment, name: str):
        self.cfg, self.records = experiment.cfg, DatasetCatalog.get(name)
        self.folder = tempfile.TemporaryDirectory()
        self.evaluator = Trainer.build_evaluator(self.cfg, name, self.folder.name)
        self.evaluator.reset()

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> np.ndarray:
        return record_pixels(dict(self.records[index]), "RGB", self.cfg.INPUT.PIXEL_RANGE)

    def take(self, index: int, found: Found) -> None:
        record = self.records[index]
        self.evaluator.process([record], [_as_output(found, (record.get("height"), record.get("width")))])

    def scores(self) -> Scores:
        with self.folder:
            return flatten_results_dict(self.evaluator.evaluate())


def _as_output(found: Found, size: tuple[int, int]) -> dict:
    """What a model of Detectron2's gives for a picture of (H, W)."""
    tensors = {name: torch.from_numpy(x) for name, x in found.items()}
    if "boxes" not in tensors:
        return {"sem_seg": tensors["scores"]}
    instances = Instances(size, pred_boxes=Boxes(tensors["boxes"]), scores=tensors["scores"])
    instances.pred_classes = tensors["labels"]
    if "masks" in tensors:
        instances.pred_masks = tensors["masks"] >= 0.5
    return {"instances": instances}
