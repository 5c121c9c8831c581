"""Masked generative distillation (MGD): generate the teacher's whole map from a student map with holes.

Source: Yang et al., "Masked Generative Distillation", ECCV 2022 (arXiv 2205.01529), section 3, eq. 2-6.
Letters: N images, L levels, S and T student and teacher map, Cs and Ct channels of student and teacher, H x W map.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from kd2.distill import BatchInfo, FeatureSpec
from kd2.distill.values import Share
from kd2.losses.adapter import channel_adapter
from kd2.losses.registry import register_loss
from kd2.ops.masks import image_region
from kd2.ops.reduction import added
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


def mgd_loss(student: Tensor, teacher: Tensor, mask: Tensor, generation: nn.Module) -> Tensor:
    """``1/N sum (G(mask * S) - T)^2`` over channels and cells, dropped and kept alike (eq. 5).

    Args:
        student: (N, Ct, H, W), already adapted to the teacher's channels.
        teacher: (N, Ct, H, W).
        mask: factors 0 and 1 that broadcast over the maps, see ``kept``.
        generation: G, see ``generation_block``.
    """
    return (generation(student * mask) - teacher).square().sum() / len(teacher)


def generation_block(channels: int) -> nn.Sequential:
    """G: two 3x3 convolutions C -> C with a ReLU between them (eq. 3)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


@register_loss("mgd", default_adapter_lr=5.0)
class Mgd(nn.Module):
    """``mgd_loss`` of the adapted student, summed over levels.

    The sum grows with channels, cells and padding; the paper's alpha (2e-5 for one-stage detectors, say) is the WEIGHT
    of this very sum.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        ratio: expected share of what is dropped. 0 draws nothing: the generation alone (an ablation of the mask).
        unit: what is dropped, see ``kept``: ``pixel`` for detection and segmentation, ``channel`` in the authors'
            classification code.
        clip_to_image: leave cells over batch padding out of the sum; the authors count them.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        ratio: Share = 0.65,
        unit: Unit = "pixel",
        clip_to_image: bool = False,
        resize: Resize = "none",
    ):
        super().__init__()
        check_sizes(student, teacher, resize)
        self.ratio, self.unit, self.clip_to_image, self.resize = ratio, unit, clip_to_image, resize
        self.needs = frozenset(["sizes"] * clip_to_image)
        self.adapters, self.generations = nn.ModuleList(), nn.ModuleList()
        for s, t in zip(student, teacher, strict=True):
            self.adapters.append(channel_adapter(s, t))
            self.generations.append(generation_block(t.channels))

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W), at least float32."""
        pairs = enumerate(zip(student, teacher, strict=True))
        return added(self._level(level, s, t, batch_info) for level, (s, t) in pairs)

    def _level(self, level: int, student: Tensor, teacher: Tensor, batch_info: BatchInfo) -> Tensor:
        student, teacher = same_size(student, teacher, self.resize)
        adapted = self.adapters[level](student)
        mask = self.mask(adapted, level, batch_info)
        generated = self.generations[level](adapted if mask is None else adapted * mask)
        region = image_region(teacher, batch_info) if self.clip_to_image else None
        return squared_distance(generated, teacher, region) / max(len(teacher), 1)

    def shown(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, list[Tensor]]:
        """For pictures: ``holes``, 1 on the cells that this iteration drops, L maps (N, H, W); of dropped channels
        (UNIT channel), which have no place, nothing.
        """
        if self.unit == "channel":
            return {}
        adapted = [a(same_size(s, t, self.resize)[0]) for a, s, t in zip(self.adapters, student, teacher, strict=True)]
        masks = [self.mask(x, level, batch_info) for level, x in enumerate(adapted)]
        return {"holes": [x.new_zeros(x[:, 0].shape) if m is None else 1 - m[:, 0] for x, m in zip(adapted, masks)]}

    def mask(self, x: Tensor, level: int, batch_info: BatchInfo) -> Tensor | None:
        """What an adapted map is multiplied by, see ``kept``; None where nothing is dropped.

        It is new for every seed, iteration, loss, process and level.
        """
        if self.ratio == 0:
            return None
        stream = level + len(self.adapters) * batch_info.rank  # every process has images of its own
        return kept(x, self.ratio, self.unit, batch_info.generator(x.device, stream))
