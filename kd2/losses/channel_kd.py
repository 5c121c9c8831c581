"""Channel-wise distillation of segmentation logits: where in the image each class is.

MGD's segmentation recipes add it with weight 3 and temperature 4.
Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021 (arXiv 2011.13256), eq. 4.
Letters: N images, K classes, H x W map.
"""

import torch
from torch import Tensor, nn

from kd2.distill import FeatureSpec, BatchInfo
from kd2.losses.logit_checks import check_classes, check_temperature
from kd2.ops.divergence import pixel_divergence
from kd2.ops.resize import Resize, check_sizes, same_size


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``temperature^2 / (N K) sum KL(teacher || student)`` of each class map's softmax over its H * W cells.

    Args:
        student, teacher: logits (N, K, H, W); computed in at least float32.
    """
    with torch.autocast(student.device.type, enabled=False):
        cells_as_classes = (x.flatten(2).mT for x in (student, teacher))
        total = pixel_divergence(*cells_as_classes, None, temperature, cross_entropy=False)
    return total / max(teacher.shape[0] * teacher.shape[1], 1)


class ChannelKd(nn.Module):
    """``channel_divergence`` of the tapped logits, summed over the tap's L maps.

    Args:
        student, teacher: what the probe saw of the tapped maps.
        temperature: above 0.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: a temperature that is not above 0; class counts that differ; sizes that differ without ``resize``.
    """

    def __init__(
        self, student: list[FeatureSpec], teacher: list[FeatureSpec], *, temperature: float = 4.0, resize: Resize = "none"
    ):
        super().__init__()
        check_temperature(temperature)
        check_sizes(student, teacher, resize)
        check_classes(student, teacher)
        self.temperature, self.resize = temperature, resize

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps and teacher maps, all (N, K, H, W)."""
        pairs = [same_size(s, t, self.resize) for s, t in zip(student, teacher, strict=True)]
        return sum(channel_divergence(s, t, self.temperature) for s, t in pairs)


TERM = ChannelKd
