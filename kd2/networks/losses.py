"""The task loss of semantic segmentation.

Letters: N images, K classes, h x w score map, H x W labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd2.distill import IGNORE_LABEL


def enlarged_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a score map enlarged to its labels (bilinear, corners aligned), in at least float32.

    The mean over the batch's pixels with a label; an exact 0 that keeps the graph when none has one.

    Args:
        scores: (N, K, h, w).
        labels: (N, H, W) int64, ``IGNORE_LABEL`` (255) where a pixel does not count.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        enlarged = F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=True)
        total = F.cross_entropy(enlarged, labels, ignore_index=IGNORE_LABEL, reduction="sum")
        return total / (labels != IGNORE_LABEL).sum().clamp(min=1)


def task_loss(scores: Tensor, aux: Tensor | None, labels: Tensor, aux_weight: float = 0.4) -> dict[str, Tensor]:
    """``loss_sem_seg``, ``enlarged_cross_entropy`` of the scores, and ``loss_sem_seg_aux``, that of the auxiliary ones
    times its weight; without an auxiliary head (``aux`` is None) the first alone.

    Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017 (arXiv 1612.01105), section 3.3.
    """
    losses = {"loss_sem_seg": enlarged_cross_entropy(scores, labels)}
    if aux is not None:
        losses["loss_sem_seg_aux"] = aux_weight * enlarged_cross_entropy(aux, labels)
    return losses
