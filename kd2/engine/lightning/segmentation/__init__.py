"""Semantic segmentation with torchvision: PSPNet, DeepLabV3, FCN, LR-ASPP, semantic FPN, ESPNet."""

from kd2.engine.lightning.run import Task
from kd2.engine.lightning.segmentation.data import check, load_all, test_batches, training_batches
from kd2.engine.lightning.segmentation.distiller import build_distiller, build_student
from kd2.engine.lightning.segmentation.evaluation import SemSegEvaluator
from kd2.engine.lightning.segmentation.models import BODY

TASK = Task(
    load=load_all,
    check=check,
    student=build_student,
    distiller=build_distiller,
    training_batches=training_batches,
    test_batches=test_batches,
    evaluator=SemSegEvaluator,
    body=BODY,
)
