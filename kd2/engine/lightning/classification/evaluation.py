"""Accuracy of a classifier, and how near it is to its teacher."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from kd2.data.classification.batches import Batch
from kd2.losses.distances import agreement
from kd2.losses.kl import divergences


class Logits(NamedTuple):
    """Of a batch, (N, K) each: the student's, and the teacher's or None."""

    student: Tensor
    teacher: Tensor | None


class ClassificationEvaluator:
    """Collects logits of a test set; every rank sees its share, ``evaluate`` gathers them."""

    def __init__(self, classes: int):
        self.of_labels: dict[str, Metric] = {"cls/top1": MulticlassAccuracy(classes, average="micro")}
        if classes > 5:
            self.of_labels["cls/top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
        self.of_teacher: dict[str, Metric] = {"cls/agreement": MeanMetric(), "cls/KL": MeanMetric()}
        self.with_teacher = False

    def process(self, inputs: Batch, outputs: Logits) -> None:
        """Take in the logits of a batch, all on one device."""
        logits, teacher = outputs
        for metric in self.of_labels.values():
            metric.to(logits.device).update(logits, inputs.labels)
        if teacher is not None:
            self.with_teacher = True
            same_choice, divergence = (metric.to(logits.device) for metric in self.of_teacher.values())
            same_choice.update(agreement(logits, teacher).float())
            divergence.update(divergences(logits, teacher))

    def names(self) -> list[str]:
        """Those of the scores; the teacher's as soon as its logits were seen."""
        return [*self.of_labels, *(self.of_teacher if self.with_teacher else ())]

    def evaluate(self) -> dict[str, float]:
        """``cls/top1``, ``cls/top5``, ``cls/agreement`` (same choice) in percent; ``cls/KL`` (teacher || student)."""
        scores = {name: 100 * metric.compute().item() for name, metric in self.of_labels.items()}
        if self.with_teacher:
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
