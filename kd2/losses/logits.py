"""Knowledge distillation: the student's class distribution equals the teacher's, both softened by a temperature.

Beside the labels' own loss it is classic distillation; alone, on consistent views, it is function matching. On maps every
pixel is a sample.
Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531); Beyer et al., "Knowledge
distillation: A good teacher is patient and consistent", CVPR 2022 (arXiv 2106.05237), section 3.
Letters: N images, K classes, H x W map (1 x 1 for a classifier's (N, K) logits).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import FeatureSpec, BatchInfo
from kd2.losses.logit_checks import check_classes, check_temperature, softened
from kd2.ops.masks import image_region
from kd2.ops.divergence import pixel_divergence
from kd2.ops.resize import Resize, check_sizes, same_size


def divergences(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``temperature^2 KL(teacher || student)`` over the classes of each sample or pixel.

    Args:
        student, teacher: logits (N, K) or (N, K, H, W); computed in at least float32.

    Returns:
        (N,) or (N, H, W).
    """
    s, t = (x.log_softmax(1) for x in softened(student, teacher, temperature))
    return F.kl_div(s, t, reduction="none", log_target=True).sum(1) * temperature**2


class Logits(nn.Module):
    """The mean of ``divergences`` over images and pixels, summed over the tap's maps.

    For classic distillation give the student's own loss and this loss their weights (0.1 and 0.9 at temperature 4 on
    CIFAR-100, 0.5 and 0.5 at 1 on ImageNet). Function matching has weight 1 and no other loss.

    Args:
        student, teacher: what the probe saw of the tapped logits; the classes must be in one order.
        temperature: above 0.
        clip_to_image: leave pixels over batch padding out of the mean. Pixels without a label count: the teacher knows.
        resize: the side whose logits are interpolated when maps differ in size.

    Raises:
        ConfigError: a temperature that is not above 0; class counts that differ; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        temperature: float = 1.0,
        clip_to_image: bool = True,
        resize: Resize = "none",
    ):
        super().__init__()
        check_temperature(temperature)
        check_classes(student, teacher)
        check_sizes(student, teacher, resize)
        self.temperature, self.clip_to_image, self.resize = temperature, clip_to_image, resize

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps and L teacher maps, all (N, K, H, W), at least float32."""
        with torch.autocast(student[0].device.type, enabled=False):
            return sum(self._mean(*same_size(s, t, self.resize), batch_info) for s, t in zip(student, teacher, strict=True))

    def _mean(self, student: Tensor, teacher: Tensor, batch_info: BatchInfo) -> Tensor:
        images, _, height, width = student.shape
        clipped = self.clip_to_image and (height, width) != (1, 1)
        region = image_region(student, batch_info).flatten(1) if clipped else None
        pixels = max(images * height * width, 1) if region is None else region.sum().clamp(min=1)
        maps = student.flatten(2), teacher.flatten(2)
        return pixel_divergence(*maps, region, self.temperature, cross_entropy=False) / pixels


TERM = Logits
