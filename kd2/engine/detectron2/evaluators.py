"""The evaluator of a data set, by the type that Detectron2's metadata give it."""

import os
from collections.abc import Callable, Iterable

import numpy as np
from detectron2 import evaluation
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from torch import nn

from kd2.distill import ConfigError, DataError, nearest
from kd2.engine.detectron2.compat import provide_cityscapes
from kd2.engine.detectron2.records_evaluator import RecordsEvaluator


def _sem_seg(name: str, folder: str) -> DatasetEvaluator:
    labels = MetadataCatalog.get(name).get("labels")
    if labels is None:  # one of Detectron2's own
        return evaluation.SemSegEvaluator(name, output_dir=folder)

    def read(path: str, dtype: type) -> np.ndarray:
        return labels.read(path).astype(dtype)

    return evaluation.SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=read)


_EVALUATORS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "records": RecordsEvaluator,
    "coco": lambda cfg, name, folder: evaluation.COCOEvaluator(name, output_dir=folder, allow_cached_coco=False),
    "sem_seg": lambda cfg, name, folder: _sem_seg(name, folder),
    "panoptic": lambda cfg, name, folder: evaluation.COCOPanopticEvaluator(name, folder),
    "cityscapes_instance": lambda cfg, name, folder: evaluation.CityscapesInstanceEvaluator(name),
    "cityscapes_sem_seg": lambda cfg, name, folder: evaluation.CityscapesSemSegEvaluator(name),
    "lvis": lambda cfg, name, folder: evaluation.LVISEvaluator(name, output_dir=folder),
    "pascal_voc": lambda cfg, name, folder: evaluation.PascalVOCDetectionEvaluator(name),
}
# Types of several parts; every other type is one of the evaluators.
_PARTS = {
    "coco_panoptic_seg": ["sem_seg", "coco", "panoptic"],
    "cityscapes_panoptic_seg": ["cityscapes_sem_seg", "cityscapes_instance", "panoptic"],
}
_TYPES = {kind: [kind] for kind in _EVALUATORS if kind != "panoptic"} | _PARTS


def check_evaluators(names: Iterable[str]) -> None:
    """Find out before training whether the data sets ``names`` can be evaluated after it.

    Raises:
        ConfigError: a data set has no type, or one without an evaluator; Cityscapes' scripts are missing.
        DataError: a custom data set has no labels.
    """
    for name in names:
        _parts(name)


def check_augmentation(cfg: CfgNode, student: nn.Module) -> None:
    """Raises ConfigError for ``TEST.AUG.ENABLED`` with a model whose boxes or masks Detectron2 does not merge."""
    if not cfg.TEST.AUG.ENABLED:
        return
    if not isinstance(student, GeneralizedRCNN) or isinstance(student, PanopticFPN):
        kind = type(student).__name__
        raise ConfigError(f"TEST.AUG.ENABLED is True, {kind} has no test-time augmentation: it takes a GeneralizedRCNN")
    for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
        if cfg.MODEL[key]:
            raise ConfigError(f"TEST.AUG.ENABLED and MODEL.{key} are both True: only one of them can be")


def build_evaluator(cfg: CfgNode, name: str, folder: str | None = None) -> DatasetEvaluator:
    """The evaluator of data set ``name``; it writes below ``folder`` (default ``OUTPUT_DIR``/inference).

    Raises:
        ConfigError, DataError: see ``check_evaluators``.
    """
    folder = folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    parts = [_EVALUATORS[part](cfg, name, folder) for part in _parts(name)]
    return parts[0] if len(parts) == 1 else DatasetEvaluators(parts)


def _parts(name: str) -> list[str]:
    metadata = MetadataCatalog.get(name)
    kind, key = metadata.get("evaluator_type"), f"DATASETS.TEST: {name!r}"
    if kind not in _TYPES:
        raise ConfigError(f"{key} has the evaluator type {kind!r}; {nearest(kind, _TYPES)}")
    if kind.startswith("cityscapes"):
        provide_cityscapes(key)
    if kind == "sem_seg" and metadata.get("labels"):
        _check_labels(name, key)
    return _TYPES[kind]


def _check_labels(name: str, key: str) -> None:
    blank = [record["file_name"] for record in DatasetCatalog.get(name) if "sem_seg_file_name" not in record]
    if blank:
        raise DataError(f"{key} has {len(blank)} images without labels ({blank[0]})")
