"""Accuracy of a classifier, and how near it is to its teacher."""

from collections.abc import Iterable

import torch
from fvcore.common.config import CfgNode
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from kd2.data.classification.image_dataset import ImageDataset
from kd2.engine.lightning.classification.distances import agreement
from kd2.losses.logits import divergences


class Evaluator:
    """Collects logits of a test set; every rank sees its share, ``result`` gathers them.

    Attributes:
        name: of the data set.
    """

    def __init__(self, cfg: CfgNode, data: ImageDataset):
        self.name, classes = data.name, cfg.MODEL.NUM_CLASSES
        self.of_labels: dict[str, Metric] = {"cls/top1": MulticlassAccuracy(classes, average="micro")}
        if classes > 5:
            self.of_labels["cls/top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
        self.of_teacher: dict[str, Metric] = {"cls/agreement": MeanMetric(), "cls/KL": MeanMetric()}
        self.guided = False

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> None:
        """Take in logits (N, K), labels (N,) and, when there is a teacher, its logits (N, K), all on one device."""
        for metric in self.of_labels.values():
            metric.to(logits.device).update(logits, labels)
        if teacher is not None:
            self.guided = True
            same_choice, divergence = (metric.to(logits.device) for metric in self.of_teacher.values())
            same_choice.update(agreement(logits, teacher).float())
            divergence.update(divergences(logits, teacher))

    def result(self) -> dict[str, float]:
        """``cls/top1``, ``cls/top5``, ``cls/agreement`` (same choice) in percent; ``cls/KL`` (teacher || student)."""
        scores = {name: 100 * metric.compute().item() for name, metric in self.of_labels.items()}
        if self.guided:
            same_choice, divergence = (metric.compute().item() for metric in self.of_teacher.values())
            scores |= {"cls/agreement": 100 * same_choice, "cls/KL": divergence}
        return scores


def precise_statistics(model: nn.Module, batches: Iterable[Tensor], iterations: int) -> None:
    """Give a model in eval mode the batch norm statistics of ``iterations`` batches of its own input, in place."""
    model.eval()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.train()
    if get_bn_modules(model):
        with torch.no_grad():
            update_bn_stats(model, batches, iterations)
    model.eval()
