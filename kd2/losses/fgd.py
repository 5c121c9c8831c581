"""Focal and global knowledge distillation (FGD): imitate the teacher where objects are and where it looks, and imitate
how it relates cells to each other.

Source: Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022 (arXiv 2111.11837), section 3.
Letters: N images, L levels, Cs and C channels of student and teacher, H x W map of A cells.
"""

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.losses.adapter import align
from kd2.ops.scale_masks import scale_masks
from kd2.ops.fgd_sums import mean_magnitudes, sums
from kd2.losses.logit_checks import check_temperature
from kd2.ops.resize import Resize, check_sizes, same_size

Scaling = Literal["padded", "image"]
Parts = dict[str, Tensor]


def attention(mean: Tensor, temperature: float) -> Tensor:
    """``K softmax(mean / temperature)`` over the K values of the last axis: weights that average to 1 (eq. 5, 6)."""
    return mean.shape[-1] * (mean / temperature).softmax(-1)


class Context(nn.Module):
    """One side's global context block (eq. 9): where to look, and what to add to every cell.

    ``mask`` gives a logit a cell; ``add`` turns the pooled map (N, C) into a vector (N, C), zero at the start. The
    hidden layer has C // 2 channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 2
        self.mask = nn.Linear(channels, 1)
        self.add = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        nn.init.kaiming_normal_(self.mask.weight, nonlinearity="relu")
        for zero in (self.mask.bias, self.add[3].weight, self.add[3].bias):
            nn.init.zeros_(zero)


class Block(nn.Module):
    """What FGD trains for one level: the alignment, and a context block for each side, the teacher's included.

    Args:
        parts: names of the parts that count; without ``global`` there are no context blocks.
        temperature: of both attentions.
    """

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec, parts: Collection[str], temperature: float):
        super().__init__()
        self.parts, self.temperature = frozenset(parts), temperature
        self.align = align(student, teacher)
        if "global" in self.parts:
            self.student = Context(teacher.channels)
            self.teacher = Context(teacher.channels)

    def forward(self, x: Tensor, t: Tensor, masks: dict[str, Tensor]) -> Parts:
        """Unweighted ``fg``, ``bg``, ``att`` and ``global`` (eq. 4, 7, 8, 10), sums divided by N, at least float32.

        Args:
            x: aligned student map (N, C, H, W).
            t: teacher map (N, C, H, W).
            masks: weights (N, H, W) of ``fg`` and ``bg``, those of them that count.
        """
        n, area = max(len(t), 1), t.shape[2] * t.shape[3]
        x, t = x.flatten(2), t.flatten(2)
        att, related = "att" in self.parts, "global" in self.parts
        looked = [attention(mean, self.temperature) for mean in mean_magnitudes(t)] if masks or att else None
        found = sums(
            x, t, looked[1] if masks else None, (self.student.mask, self.teacher.mask) if related else None, att
        )
        parts = {name: (mask.flatten(1) * looked[0] * found.error).sum() / n for name, mask in masks.items()}
        if att:
            pairs = zip((found.cells, found.channels), looked)
            parts["att"] = sum((attention(mean, self.temperature) - wanted).abs().sum() for mean, wanted in pairs) / n
        if related:
            offset = self.student.add(found.student_context) - self.teacher.add(found.teacher_context)
            # sum (x + a - t - b)^2 over cells, with a - b = offset (N, C)
            parts["global"] = (found.squares + (offset * (2 * found.gap + area * offset)).sum()) / n
        return parts


class Fgd(nn.Module):
    """The FGD loss; its parts are returned with their factors, which default to the paper's for RetinaNet.

    A part whose factor is 0 is neither computed nor returned. Two-stage detectors take 5e-5, 2.5e-5, 5e-5 and 5e-7; FCOS
    takes 1.6e-3, 8e-4, 8e-4, 8e-6 and temperature 0.8.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        alpha_fg, beta_bg, gamma_att, lambda_global: the paper's alpha, beta, gamma and lambda.
        temperature: of both attentions, above 0.
        scaling: what a map's whole width stands for: ``padded`` is the batch's width, which is where the boxes are;
            ``image`` is each image's own, as in the authors' code; there boxes of smaller images reach into the padding.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: a temperature that is not above 0; four factors of 0; teacher maps of one channel; sizes that
            differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        alpha_fg: float = 1e-3,
        beta_bg: float = 5e-4,
        gamma_att: float = 5e-4,
        lambda_global: float = 5e-6,
        temperature: float = 0.5,
        scaling: Scaling = "padded",
        resize: Resize = "none",
    ):
        super().__init__()
        check_temperature(temperature)
        check_sizes(student, teacher, resize)
        narrow = [level for level, t in enumerate(teacher) if t.channels < 2]
        if narrow:
            raise ConfigError(f"the teacher's maps of levels {narrow} have 1 channel; a context block needs 2 or more")
        factors = {"fg": alpha_fg, "bg": beta_bg, "att": gamma_att, "global": lambda_global}
        self.factors = {name: factor for name, factor in factors.items() if factor != 0}
        self.parts = tuple(self.factors)
        if not self.factors:
            raise ConfigError(
                "ALPHA_FG, BETA_BG, GAMMA_ATT and LAMBDA_GLOBAL are all 0; to switch the loss off, set its WEIGHT to 0"
            )
        self.scaling, self.resize = scaling, resize
        self.blocks = nn.ModuleList(Block(s, t, self.factors, temperature) for s, t in zip(student, teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Parts:
        """Parts ``fg``, ``bg``, ``att``, ``global``, weighted, of L maps (N, Cs, H, W) and teacher maps (N, C, H, W)."""
        maps = [same_size(s, t, self.resize) for s, t in zip(student, teacher, strict=True)]
        focal = [name for name in ("fg", "bg") if name in self.factors]
        masks = self.masks([(t.shape[2], t.shape[3]) for _, t in maps], batch_info) if focal else [()] * len(maps)
        total = dict.fromkeys(self.factors, 0.0)
        for block, (s, t), pair in zip(self.blocks, maps, masks):
            aligned = block.align(s)
            weights = {n: m.to(t.device, non_blocking=True) for n, m in zip(("fg", "bg"), pair) if n in focal}
            with torch.autocast(t.device.type, enabled=False):
                parts = block(aligned, t, weights)
            total = {name: total[name] + self.factors[name] * part for name, part in parts.items()}
        return total

    def masks(self, sizes: list[tuple[int, int]], batch_info: BatchInfo) -> list[tuple[Tensor, Tensor]]:
        """Foreground and background weights (N, H, W) of each level, from the batch_info's boxes."""
        frames = batch_info.image_sizes if self.scaling == "image" else [batch_info.padded_size] * len(batch_info.image_sizes)
        return scale_masks(batch_info.boxes, sizes, frames, batch_info.image_sizes)


TERM = Fgd
