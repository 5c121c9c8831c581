"""The evaluator of a data set, by the type that Detectron2's metadata give it."""

import os

import numpy
from detectron2 import evaluation
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from kd2.bridges.d2.cityscapes import provide_scripts
from kd2.core import ConfigError, DataError, nearest


def _coco(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.COCOEvaluator(name, output_dir=folder, allow_cached_coco=False)


def _sem_seg(name: str, folder: str) -> DatasetEvaluator:
    labels = MetadataCatalog.get(name).get("labels")
    if labels is None:  # one of Detectron2's own
        return evaluation.SemSegEvaluator(name, output_dir=folder)
    blank = [record["file_name"] for record in DatasetCatalog.get(name) if "sem_seg_file_name" not in record]
    if blank:
        raise DataError(f"DATASETS.TEST: {len(blank)} images of {name!r} have no labels ({blank[0]})")

    def read(path: str, dtype: type) -> numpy.ndarray:
        return labels.read(path).astype(dtype)

    return evaluation.SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=read)


def _panoptic(name: str, folder: str) -> DatasetEvaluator:
    return evaluation.COCOPanopticEvaluator(name, folder)


def _cityscapes_instance(name: str, folder: str) -> DatasetEvaluator:
    provide_scripts(f"DATASETS.TEST {name!r}")
    return evaluation.CityscapesInstanceEvaluator(name)


def _cityscapes_sem_seg(name: str, folder: str) -> DatasetEvaluator:
    provide_scripts(f"DATASETS.TEST {name!r}")
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


def build_evaluator(cfg: CfgNode, name: str, folder: str | None = None) -> DatasetEvaluator:
    """The evaluator of data set ``name``; it writes below ``folder`` (default ``OUTPUT_DIR``/inference).

    Raises:
        ConfigError: the data set has no type, or one without an evaluator.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type")
    if kind not in _BUILDERS:
        raise ConfigError(f"DATASETS.TEST: {name!r} has the evaluator type {kind!r}; {nearest(kind, _BUILDERS)}")
    folder = folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    parts = [build(name, folder) for build in _BUILDERS[kind]]
    return parts[0] if len(parts) == 1 else DatasetEvaluators(parts)
