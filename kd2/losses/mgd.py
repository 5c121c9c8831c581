"""Masked generative distillation (MGD): generate the teacher's whole map from a student map with holes.

Source: Yang et al., "Masked Generative Distillation", ECCV 2022 (arXiv 2205.01529), section 3, eq. 2-6.
Letters: N images, L levels, Cs and Ct channels of student and teacher, H x W map.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.losses.adapter import align
from kd2.ops.masks import image_region
from kd2.ops.resize import Resize, check_sizes, same_size
from kd2.ops.squared_distance import squared_distance

Unit = Literal["pixel", "channel"]


def kept(x: Tensor, ratio: float, unit: Unit, generator: torch.Generator) -> Tensor:
    """Factors for a map ``x`` (N, C, H, W): 0 (dropped, with probability ``ratio``) or 1, not rescaled.

    ``pixel`` draws (N, 1, H, W), one for each image and cell; ``channel`` draws (N, C, 1, 1). Ratio 1 drops everything.
    """
    n, channels, height, width = x.shape
    shape = (n, 1, height, width) if unit == "pixel" else (n, channels, 1, 1)
    return (torch.rand(shape, generator=generator, device=x.device) >= ratio).to(x.dtype)


class Block(nn.Module):
    """What MGD trains for one level: the alignment, and two 3x3 convolutions Ct -> Ct with a ReLU between them."""

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec):
        super().__init__()
        channels = teacher.channels
        self.align = align(student, teacher)
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, factors: Tensor | None) -> Tensor:
        """The generated map (N, Ct, H, W) of an aligned one and of factors that broadcast over it (None: no holes)."""
        return self.generation(x if factors is None else x * factors)


class Mgd(nn.Module):
    """The MGD loss: ``1/N sum (G - T)^2`` over channels and cells, dropped and kept alike, summed over levels.

    The sum grows with channels, cells and padding; the paper's alpha (2e-5 for one-stage detectors, say) is the WEIGHT
    of this very sum.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        ratio: expected share of what is dropped, in [0, 1]. 0 draws nothing: the block alone (an ablation of the mask).
        unit: what is dropped, see ``kept``: ``pixel`` for detection and segmentation, ``channel`` in the authors'
            classification code.
        clip_to_image: leave cells over batch padding out of the sum; the authors count them.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: a ratio outside [0, 1]; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        ratio: float = 0.65,
        unit: Unit = "pixel",
        clip_to_image: bool = False,
        resize: Resize = "none",
    ):
        super().__init__()
        if not 0 <= ratio <= 1:
            raise ConfigError(f"RATIO is {ratio}, expected a number in [0, 1]")
        check_sizes(student, teacher, resize)
        self.ratio, self.unit, self.clip_to_image, self.resize = ratio, unit, clip_to_image, resize
        self.blocks = nn.ModuleList(Block(s, t) for s, t in zip(student, teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W), at least float32."""
        total = 0.0
        for level, (block, s, t) in enumerate(zip(self.blocks, student, teacher, strict=True)):
            s, t = same_size(s, t, self.resize)
            aligned = block.align(s)
            generated = block(aligned, self.factors(aligned, level, batch_info))
            region = image_region(t, batch_info) if self.clip_to_image else None
            total = total + squared_distance(generated, t, region) / max(len(t), 1)
        return total

    def factors(self, x: Tensor, level: int, batch_info: BatchInfo) -> Tensor | None:
        """What an aligned map is multiplied by, see ``kept``: new for every seed, iteration, loss, process and level."""
        if self.ratio == 0:
            return None
        stream = level + len(self.blocks) * batch_info.rank  # every process has images of its own
        return kept(x, self.ratio, self.unit, batch_info.generator(x.device, stream))


TERM = Mgd
