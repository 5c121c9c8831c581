"""torchvision's detectors: RetinaNet, FCOS, Faster and Mask R-CNN."""

from fvcore.common.config import CfgNode

from kd2.engine.lightning.run import Task
from kd2.engine.lightning.detection.data import load_all, test_batches, training_batches
from kd2.engine.lightning.detection.distiller import build_distiller, build_student
from kd2.engine.lightning.detection.evaluation import CocoEvaluator
from kd2.engine.lightning.detection.models import BODY, num_classes
from kd2.engine.lightning.images import check_classes
from kd2.distill import ConfigError


def _check(cfg: CfgNode, data: list) -> None:
    if cfg.KD.UNLABELED.DATASETS:
        names = list(cfg.KD.UNLABELED.DATASETS)
        raise ConfigError(f"KD.UNLABELED.DATASETS is {names}, expected []: images without labels are for segmentation")
    check_classes(data, *num_classes(cfg))


TASK = Task(
    load=load_all,
    check=_check,
    student=build_student,
    distiller=build_distiller,
    training_batches=training_batches,
    test_batches=test_batches,
    evaluator=lambda cfg, data: CocoEvaluator(data),
    body=BODY,
)
