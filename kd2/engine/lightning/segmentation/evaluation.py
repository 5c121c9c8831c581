"""Intersection over union and accuracy of a segmentation network."""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from kd2.engine.lightning.segmentation.data import Batch, window
from kd2.engine.lightning.segmentation.models import Segmenter
from kd2.distill import IGNORE_LABEL
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.networks.window import enlarged, predict


class SemSegEvaluator:
    """Counts the student's classes against the labels over a test set.

    Every rank sees its share; ``result`` gathers them. Metrics have Detectron2's names (``sem_seg/mIoU``, in percent).
    """

    def __init__(self, cfg: CfgNode, data: SemanticRecords):
        self.window = window(cfg)
        self.classes = data.classes
        self.counts = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)

    def __call__(self, student: Segmenter, batch: Batch) -> None:
        """Run the student in eval mode on one image, in float32 whatever it trains in."""
        with torch.autocast(batch.images[0].device.type, enabled=False):
            images = student.normalized(batch.images, batch.images[0].shape[1:])
            scores = predict(lambda x: student(x)["out"], images, *self.window)
        self.see(enlarged(scores, batch.size).argmax(1), batch.labels)

    def see(self, found: Tensor, labels: Tensor) -> None:
        """Count classes (N, H, W) against labels of this size, 255 for pixels that do not count."""
        self.counts += multiclass_confusion_matrix(
            found, labels, len(self.classes), ignore_index=IGNORE_LABEL, validate_args=False
        ).cpu()

    def result(self) -> dict[str, float]:
        """The metrics on every rank's whole data set."""
        shares = [self.counts]
        if torch.distributed.is_initialized():
            shares = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, self.counts)
        return score(sum(shares), self.classes)


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
        "fwIoU": (iou * labeled / labeled.sum()).nansum(),
        **{f"IoU-{name}": value for name, value in zip(classes, iou)},
        "mACC": accuracy.nanmean(),
        "pACC": hits.sum() / labeled.sum(),
        **{f"ACC-{name}": value for name, value in zip(classes, accuracy)},
    }
    return {f"sem_seg/{name}": 100 * float(value) for name, value in metrics.items()}
