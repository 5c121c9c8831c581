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


def _coco(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.COCOEvaluator(name, output_dir=folder, allow_cached_coco=False)


def _sem_seg(name: str, folder: str) -> DatasetEvaluator:
    labels = MetadataCatalog.get(name).get("labels")
    if labels is None:  # one of Detectron2's own
        return evaluation.SemSegEvaluator(name, output_dir=folder)

    def read(path: str, dtype: type) -> np.ndarray:
        return labels.read(path).astype(dtype)

    return evaluation.SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=read)


def _panoptic(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.COCOPanopticEvaluator(name, folder)


def _cityscapes_instance(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.CityscapesInstanceEvaluator(name)


def _cityscapes_sem_seg(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.CityscapesSemSegEvaluator(name)


def _lvis(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.LVISEvaluator(name, output_dir=folder)


def _voc(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.PascalVOCDetectionEvaluator(name)


_BUILDERS = {
    "coco": [_coco],
    "coco_panoptic_seg": [_sem_seg, _coco, _panoptic],
    "sem_seg": [_sem_seg],
    "cityscapes_instance": [_cityscapes_instance],
    "cityscapes_sem_seg": [_cityscapes_sem_seg],
    "cityscapes_panoptic_seg": [_cityscapes_sem_seg, _cityscapes_instance, _panoptic],
    "lvis": [_lvis],
    "pascal_voc": [_voc],
}


def check_evaluators(names: Iterable[str]) -> None:
    """Find out before training whether the data sets ``names`` can be evaluated after it.

    Raises:
        ConfigError: a data set has no type, or one without an evaluator; Cityscapes' scripts are missing.
        DataError: a custom data set has no labels.
    """
    for name in names:
        _builders(name)


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
    parts = [build(name, folder) for build in _builders(name)]
    return parts[0] if len(parts) == 1 else DatasetEvaluators(parts)


def _builders(name: str) -> list[Callable[[str, str], DatasetEvaluator]]:
    metadata = MetadataCatalog.get(name)
    kind, key = metadata.get("evaluator_type"), f"DATASETS.TEST: {name!r}"
    if kind not in _BUILDERS:
        raise ConfigError(f"{key} has the evaluator type {kind!r}; {nearest(kind, _BUILDERS)}")
    found = _BUILDERS[kind]
    if _cityscapes_sem_seg in found or _cityscapes_instance in found:
        provide_cityscapes(key)
    if kind == "sem_seg" and metadata.get("labels"):
        _check_labels(name, key)
    return found


def _check_labels(name: str, key: str) -> None:
    blank = [record["file_name"] for record in DatasetCatalog.get(name) if "sem_seg_file_name" not in record]
    if blank:
        raise DataError(f"{key} has {len(blank)} images without labels ({blank[0]})")
