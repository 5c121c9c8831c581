"""The task loss of semantic segmentation.

Letters: N images, K classes, h x w score map, H x W labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarged_cross_entropy(scores: Tensor, labels: Tensor, ignore_label: int = 255) -> Tensor:
    """Cross-entropy of a score map enlarged to its labels (bilinear, corners aligned), in at least float32.

    The mean over the batch's pixels with a label; an exact 0 that keeps the graph when none has one.

    Args:
        scores: (N, K, h, w).
        labels: (N, H, W) int64, ``ignore_label`` where a pixel does not count.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        enlarged = F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=True)
        total = F.cross_entropy(enlarged, labels, ignore_index=ignore_label, reduction="sum")
        return total / (labels != ignore_label).sum().clamp(min=1)


def deeply_supervised(
    main: Tensor, auxiliary: Tensor, labels: Tensor, ignore_label: int = 255, auxiliary_weight: float = 0.4
) -> Tensor:
    """``enlarged_cross_entropy`` of the main score map, and that of the auxiliary one times its weight.

    Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017 (arXiv 1612.01105), section 3.3.
    """
    auxiliary_loss = enlarged_cross_entropy(auxiliary, labels, ignore_label)
    return enlarged_cross_entropy(main, labels, ignore_label) + auxiliary_weight * auxiliary_loss
