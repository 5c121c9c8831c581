"""The task loss of segmentation.

Letters: N images, K classes, H x W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kd2.networks.window import enlarged


def task_loss(scores: Tensor, aux: Tensor | None, labels: Tensor, aux_weight: float = 0.4) -> dict[str, Tensor]:
    """Cross-entropy of the scores, and of the auxiliary scores times ``aux_weight``.

    Args:
        scores, aux: (N, K, any size), raw; enlarged to the labels' size bilinear, corners aligned. aux None: no such head.
        labels: (N, H, W) int64 classes, 255 for pixels that do not count.

    Returns:
        ``loss_sem_seg`` and, with ``aux``, ``loss_sem_seg_aux``: float32 means over the batch's pixels that count; an
        exact 0 with a gradient of 0 when none does.
    """
    losses = {"loss_sem_seg": cross_entropy(scores, labels)}
    if aux is not None:
        losses["loss_sem_seg_aux"] = aux_weight * cross_entropy(aux, labels)
    return losses


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """See ``task_loss``."""
    with torch.autocast(scores.device.type, enabled=False):
        total = F.cross_entropy(enlarged(scores, labels.shape[1:]), labels, ignore_index=255, reduction="sum")
    return total / (labels != 255).sum().clamp(min=1)
