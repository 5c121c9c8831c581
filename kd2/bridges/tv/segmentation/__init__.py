"""Semantic segmentation with torchvision: PSPNet, DeepLabV3, FCN, LR-ASPP, semantic FPN, ESPNet."""

from kd2.bridges.fit.run import Task
from kd2.bridges.tv.segmentation.data import check, load_all, test_batches, training_batches
from kd2.bridges.tv.segmentation.distiller import build_distiller, build_student
from kd2.bridges.tv.segmentation.evaluation import SemSegEvaluator
from kd2.bridges.tv.segmentation.models import BODY

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
