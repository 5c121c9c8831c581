"""Plain feature mimicking: the student's map, aligned to the teacher's channels, equals the teacher's.

The baseline that MGD is compared with, under the same normalization.
Source: Yang et al., "Masked Generative Distillation", ECCV 2022 (arXiv 2205.01529), section 3, eq. 1.
"""

from torch import Tensor, nn

from kd2.distill import FeatureSpec, BatchInfo
from kd2.losses.adapter import align
from kd2.ops.resize import Resize, check_sizes, same_size
from kd2.ops.squared_distance import squared_distance


class Mimic(nn.Module):
    """``1/N sum (align(S) - T)^2`` over channels and cells, summed over L levels.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: sizes that differ without ``resize``.
    """

    def __init__(self, student: list[FeatureSpec], teacher: list[FeatureSpec], *, resize: Resize = "none"):
        super().__init__()
        check_sizes(student, teacher, resize)
        self.resize = resize
        self.aligns = nn.ModuleList(align(s, t) for s, t in zip(student, teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W), at least float32."""
        total = 0.0
        for to_teacher, s, t in zip(self.aligns, student, teacher, strict=True):
            s, t = same_size(s, t, self.resize)
            total = total + squared_distance(to_teacher(s), t) / max(len(t), 1)
        return total


TERM = Mimic
