"""The evaluator of a data set, by the type that Detectron2's metadata give it."""

import glob
import os
from collections.abc import Callable, Iterable

from detectron2 import evaluation
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.utils import comm
from torch import nn

from kd2.distill import ConfigError, DataError, nearest
from kd2.engine.detectron2 import scoring
from kd2.engine.detectron2.packages import provide_packages
from kd2.engine.detectron2.records_evaluator import RecordsEvaluator

_EVALUATORS: dict[str, Callable[[CfgNode, str, str], DatasetEvaluator]] = {
    "records": RecordsEvaluator,
    "coco": scoring.coco_evaluator,
    "sem_seg": lambda cfg, name, folder: scoring.SemSegEvaluator(name, folder),
    "panoptic": lambda cfg, name, folder: evaluation.COCOPanopticEvaluator(name, folder),
    "cityscapes_instance": lambda cfg, name, folder: evaluation.CityscapesInstanceEvaluator(name),
    "cityscapes_sem_seg": lambda cfg, name, folder: evaluation.CityscapesSemSegEvaluator(name),
    "lvis": scoring.lvis_evaluator,
    "pascal_voc": lambda cfg, name, folder: scoring.VocEvaluator(name),
}
# Types of several parts; every other type is one of the evaluators.
_PARTS = {
    "coco_panoptic_seg": ["sem_seg", "coco", "panoptic"],
    "cityscapes_panoptic_seg": ["cityscapes_sem_seg", "cityscapes_instance", "panoptic"],
}
_TYPES = {kind: [kind] for kind in _EVALUATORS if kind != "panoptic"} | _PARTS
_COCO_KEYPOINTS = 17


def check_evaluators(names: Iterable[str]) -> None:
    """Find out before training whether the data sets ``names`` can be evaluated after it.

    Raises:
        ConfigError: a data set has no type, or one without an evaluator; a package that this calls is missing.
        DataError: a custom data set has no labels; a file that only the evaluation reads does not exist.
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


def check_keypoints(cfg: CfgNode) -> None:
    """Raises ConfigError when keypoints are to be scored with sigmas of another number of them."""
    sigmas, count = len(cfg.TEST.KEYPOINT_OKS_SIGMAS), cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TEST and (sigmas or _COCO_KEYPOINTS) != count:
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {sigmas} numbers (none: those of COCO's {_COCO_KEYPOINTS} keypoints), "
            f"expected {count}, which is MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
        )


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
    provide_packages(kind, key)
    if kind.startswith("cityscapes") and comm.get_local_size() != comm.get_world_size():
        raise ConfigError(f"{key}: Detectron2's evaluators of Cityscapes work on one machine alone, this run has more")
    if kind == "sem_seg" and metadata.get("labels"):
        _check_labels(name, key)
    parts = _TYPES[kind]
    if kind == "coco_panoptic_seg" and not metadata.get("sem_seg_root"):
        parts = ["coco", "panoptic"]  # the form for Panoptic-DeepLab, without label files
    for pattern in (pattern for part in parts for pattern in _truth(part, metadata)):
        if not glob.glob(pattern):
            raise DataError(f"{key}: its evaluation needs {pattern}, which does not exist")
    return parts


def _truth(part: str, metadata: Metadata) -> list[str]:
    """Patterns of the files that an evaluator reads and the reader of the data set does not."""
    if part == "panoptic":
        return [glob.escape(path) for path in (metadata.panoptic_json, metadata.panoptic_root)]
    kinds = {"cityscapes_sem_seg": ["labelIds", "instanceIds"], "cityscapes_instance": ["instanceIds"]}.get(part, [])
    return [os.path.join(metadata.gt_dir, "*", f"*_gtFine_{kind}.png") for kind in kinds]


def _check_labels(name: str, key: str) -> None:
    blank = [record["file_name"] for record in DatasetCatalog.get(name) if "sem_seg_file_name" not in record]
    if blank:
        raise DataError(f"{key} has {len(blank)} images without labels ({blank[0]})")
