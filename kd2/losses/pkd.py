"""PKD: every channel of the student correlates with the teacher's, whatever its magnitude and offset.

Source: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
NeurIPS 2022 (arXiv 2207.02039), and the first author's code in mmrazor.
Letters: N images, L levels, Cs and Ct channels of student and teacher, H x W map.
"""

from torch import Tensor, nn

from kd2.distill import BatchInfo, FeatureSpec
from kd2.distill.values import NonNegative
from kd2.losses.adapter import channel_adapter
from kd2.losses.registry import register_loss
from kd2.ops.masks import image_region
from kd2.ops.reduction import added
from kd2.ops.resize import Resize, check_sizes, same_size
from kd2.ops.standardized import standardized_distance

EPS = 1e-6


def pearson_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1/2 mean (z(S) - z(T))^2`` over channels and cells with ``z(x) = (x - mean) / (std + 1e-6)``.

    Mean and unbiased deviation (n - 1) are those of a channel over the images and cells of this process. The value is
    about ``mean_c (1 - r_c)`` with Pearson's r of channel c: in [0, 2), and 1 for unrelated maps.

    Args:
        student, teacher: (N, Ct, H, W) with at least two cells.
    """
    s, t = ((x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + EPS) for x in (student, teacher))
    return (s - t).square().mean() / 2


@register_loss("pkd", default_adapter_lr=5.0)
class Pkd(nn.Module):
    """``pearson_distance`` of the adapted student, summed over levels.

    The published weights of this very sum are 6 for two-stage students and 10 for one-stage ones, on four levels.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        clip_to_image: leave cells over batch padding out of statistics and mean; the author counts them.
        min_std: student channels whose deviation is not above count as 0, without gradient. 0 is the author's: a
            constant channel has a gradient 1e6 times that of one with deviation 1.
        resize: the side that is interpolated when sizes differ; the author's is ``student``.

    Raises:
        ConfigError: sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        clip_to_image: bool = False,
        min_std: NonNegative = 0.0,
        resize: Resize = "none",
    ):
        super().__init__()
        check_sizes(student, teacher, resize)
        self.clip_to_image, self.min_std, self.resize = clip_to_image, min_std, resize
        self.needs = frozenset(["sizes"] * clip_to_image)
        # Without bias: the loss does not see it, and weight decay would move it.
        pairs = zip(student, teacher, strict=True)
        self.adapters = nn.ModuleList(channel_adapter(s, t, bias=False) for s, t in pairs)

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W), at least float32.

        A level with fewer than two cells in the whole batch adds an exact 0.
        """
        levels = zip(self.adapters, student, teacher, strict=True)
        return added(self._level(adapter, s, t, batch_info) for adapter, s, t in levels)

    def _level(self, adapter: nn.Module, student: Tensor, teacher: Tensor, batch_info: BatchInfo) -> Tensor:
        student, teacher = same_size(student, teacher, self.resize)
        region = image_region(teacher, batch_info) if self.clip_to_image else None
        return standardized_distance(adapter(student), teacher, region, EPS, self.min_std)
