"""Focal and global knowledge distillation (FGD): imitate the teacher where objects are and where it looks, and imitate
how it relates cells to each other.

Source: Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022 (arXiv 2111.11837), section 3.
Letters: N images, L levels, Cs and C channels of student and teacher, H x W map of A cells.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from kd2.core import ConfigError, MapSpec, Scene
from kd2.terms._align import align
from kd2.terms._fgd_masks import scale_masks
from kd2.terms._fgd_sums import mean_magnitudes, sums
from kd2.terms._resize import Resize, check_sizes, same_size

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
    """What FGD trains for one level: the alignment, and a context block for each side, the teacher's included."""

    def __init__(self, student: MapSpec, teacher: MapSpec):
        super().__init__()
        self.align = align(student, teacher)
        self.student = Context(teacher.channels)
        self.teacher = Context(teacher.channels)

    def forward(self, x: Tensor, t: Tensor, masks: tuple[Tensor, Tensor], temperature: float) -> Parts:
        """Unweighted ``fg``, ``bg``, ``att`` and ``global`` (eq. 4, 7, 8, 10), sums divided by N, at least float32.

        Args:
            x: aligned student map (N, C, H, W).
            t: teacher map (N, C, H, W).
            masks: foreground and background weights (N, H, W).
        """
        n, area = max(len(t), 1), t.shape[2] * t.shape[3]
        x, t = x.flatten(2), t.flatten(2)
        cells, channels = (attention(mean, temperature) for mean in mean_magnitudes(t))
        found = sums(x, t, channels, self.student.mask, self.teacher.mask)
        focus = cells * found.error
        offset = self.student.add(found.student_context) - self.teacher.add(found.teacher_context)
        # sum (x + a - t - b)^2 over cells, with a - b = offset (N, C)
        relation = found.squares + (offset * (2 * found.gap + area * offset)).sum()
        apart = [
            (attention(mean, temperature) - wanted).abs().sum()
            for mean, wanted in ((found.cells, cells), (found.channels, channels))
        ]
        fg, bg = ((mask.flatten(1) * focus).sum() for mask in masks)
        return {"fg": fg / n, "bg": bg / n, "att": sum(apart) / n, "global": relation / n}


class Fgd(nn.Module):
    """The FGD term; its parts are returned with their factors, which default to the paper's for RetinaNet.

    Two-stage detectors take 5e-5, 2.5e-5, 5e-5 and 5e-7; FCOS takes 1.6e-3, 8e-4, 8e-4, 8e-6 and temperature 0.8.

    Args:
        student, teacher: what the rehearsal saw of the tapped levels.
        alpha_fg, beta_bg, gamma_att, lambda_global: the paper's alpha, beta, gamma and lambda.
        temperature: of both attentions, above 0.
        scaling: what a map's whole width stands for: ``padded`` is the batch's width, which is where the boxes are;
            ``image`` is each image's own, as in the authors' code; there boxes of smaller images reach into the padding.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: a temperature that is not above 0; teacher maps of one channel; sizes that differ without
            ``resize``.
    """

    def __init__(
        self,
        student: list[MapSpec],
        teacher: list[MapSpec],
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
        if temperature <= 0:
            raise ConfigError(f"TEMPERATURE is {temperature}, expected a number above 0")
        check_sizes(student, teacher, resize)
        narrow = [level for level, t in enumerate(teacher) if t.channels < 2]
        if narrow:
            raise ConfigError(f"the teacher's maps of levels {narrow} have 1 channel; a context block needs 2 or more")
        self.factors = {"fg": alpha_fg, "bg": beta_bg, "att": gamma_att, "global": lambda_global}
        self.temperature, self.scaling, self.resize = temperature, scaling, resize
        self.blocks = nn.ModuleList(Block(s, t) for s, t in zip(student, teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor], scene: Scene) -> Parts:
        """Parts ``fg``, ``bg``, ``att``, ``global``, weighted, of L maps (N, Cs, H, W) and teacher maps (N, C, H, W)."""
        maps = [same_size(s, t, self.resize) for s, t in zip(student, teacher, strict=True)]
        masks = self.masks([(t.shape[2], t.shape[3]) for _, t in maps], scene)
        total = dict.fromkeys(self.factors, 0.0)
        for block, (s, t), pair in zip(self.blocks, maps, masks):
            aligned = block.align(s)
            with torch.autocast(t.device.type, enabled=False):
                parts = block(aligned, t, [m.to(t.device, non_blocking=True) for m in pair], self.temperature)
            total = {name: total[name] + self.factors[name] * part for name, part in parts.items()}
        return total

    def masks(self, sizes: list[tuple[int, int]], scene: Scene) -> list[tuple[Tensor, Tensor]]:
        """Foreground and background weights (N, H, W) of each level, from the scene's boxes."""
        frames = scene.image_sizes if self.scaling == "image" else [scene.padded_size] * len(scene.image_sizes)
        return scale_masks(scene.boxes, sizes, frames, scene.image_sizes)


TERM = Fgd
