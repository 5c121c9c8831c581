"""Intersection over union and accuracy of a segmentation network."""

import math
from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from kd2.data.segmentation.labels import tell_absent
from kd2.distill import IGNORE_LABEL
from kd2.engine.lightning.segmentation.data import Batch


class SemSegEvaluator:
    """Counts classes that a student found against the labels of a test set.

    Every rank sees its share; ``evaluate`` gathers them. Metrics have Detectron2's names (``sem_seg/mIoU``, in
    percent).
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        self.counts = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE_LABEL, validate_args=False)

    def process(self, inputs: Batch, outputs: Tensor) -> None:
        """Count classes (N, H, W) against the labels of a batch, 255 for pixels that do not count."""
        self.counts.to(outputs.device).update(outputs, inputs.labels)

    def names(self) -> list[str]:
        """Those of the scores."""
        return list(score(torch.zeros(len(self.classes), len(self.classes)), self.classes))

    def evaluate(self) -> dict[str, float]:
        """The metrics on every rank's whole data set; the first rank names classes that never occur."""
        metrics = score(self.counts.compute().cpu(), self.classes)
        absent = [name for name in self.classes if math.isnan(metrics[f"sem_seg/IoU-{name}"])]
        rank_zero_only(tell_absent)(absent, "mIoU")
        return metrics


def score(counts: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Metrics in percent of a confusion matrix (K labels, K found); nan where a class, or everything, has no labels.

    As in Detectron2, classes without labels take no part in the means, whatever was found.
    """
    counts = counts.double()
    hits, labeled, found = counts.diagonal(), counts.sum(1), counts.sum(0)
    accuracy = hits / labeled
    iou = torch.where(labeled > 0, hits / (labeled + found - hits), torch.nan)
    metrics = {
        "mIoU": iou.nanmean(),
        "fwIoU": (iou * labeled).nansum() / labeled.sum(),
        **{f"IoU-{name}": value for name, value in zip(classes, iou)},
        "mACC": accuracy.nanmean(),
        "pACC": hits.sum() / labeled.sum(),
        **{f"ACC-{name}": value for name, value in zip(classes, accuracy)},
    }
    return {f"sem_seg/{name}": 100 * float(value) for name, value in metrics.items()}
