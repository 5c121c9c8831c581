"""Focal and global knowledge distillation (FGD): imitate the teacher where objects are and where it looks, and imitate
how it relates cells to each other.

Source: Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022 (arXiv 2111.11837), section 3.
Letters: N images, L levels, M boxes of an image, Cs and C channels of student and teacher, H x W map of A cells.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import NonNegative, Positive
from kd2.losses.adapter import channel_adapter
from kd2.losses.registry import register_loss
from kd2.ops.fgd_sums import mean_magnitudes, sums
from kd2.ops.reduction import added
from kd2.ops.resize import Resize, check_sizes, same_size
from kd2.ops.scale_masks import scale_masks

Size = tuple[int, int]
Parts = dict[str, Tensor]


def attention(mean: Tensor, temperature: float) -> Tensor:
    """``K softmax(mean / temperature)`` over the K values of the last axis: weights that average to 1 (eq. 5, 6)."""
    return mean.shape[-1] * (mean / temperature).softmax(-1)


def attentions(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Spatial attention (N, A) and channel attention (N, C) of a map (N, C, A) (eq. 5, 6)."""
    return attention(x.abs().mean(1), temperature), attention(x.abs().mean(2), temperature)


class Context(nn.Module):
    """One side's global context block R (eq. 9): it adds one vector to every cell.

    ``mask`` gives a logit a cell; ``add`` turns the map, pooled by the softmax of the logits, into a vector, which is
    zero at the start. The hidden layer has C // 2 channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 2
        self.mask = nn.Linear(channels, 1)
        first, last = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.add = nn.Sequential(first, nn.LayerNorm(hidden), nn.ReLU(), last)
        nn.init.kaiming_normal_(self.mask.weight, nonlinearity="relu")
        for zero in (self.mask.bias, last.weight, last.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """A map (N, C, A) with its context."""
        pooled = x @ self.mask(x.mT).softmax(1)
        return x + self.add(pooled[..., 0])[..., None]


def fgd_parts(
    x: Tensor, t: Tensor, foreground: Tensor, background: Tensor, temperature: float, sides: tuple[Context, Context]
) -> Parts:
    """The unweighted parts ``fg``, ``bg`` (eq. 7), ``att`` (eq. 8) and ``global`` (eq. 10), sums divided by N.

    Args:
        x: adapted student map (N, C, H, W).
        t: teacher map (N, C, H, W).
        foreground, background: weights (N, H, W) of the cells, see ``scale_mask`` (eq. 2, 3).
        temperature: of both attentions.
        sides: the context blocks of student and teacher.
    """
    x, t = x.flatten(2), t.flatten(2)
    spatial, channel = attentions(t, temperature)
    error = (spatial[:, None] * channel[..., None] * (x - t).square()).sum(1)
    pairs = zip(attentions(x, temperature), (spatial, channel), strict=True)
    return {
        "fg": (foreground.flatten(1) * error).sum() / len(t),
        "bg": (background.flatten(1) * error).sum() / len(t),
        "att": added((found - wanted).abs().sum() for found, wanted in pairs) / len(t),
        "global": (sides[0](x) - sides[1](t)).square().sum() / len(t),
    }


def scale_mask(boxes: Tensor, size: Size, frame: Size) -> tuple[Tensor, Tensor]:
    """Foreground and background weights (H, W) of one image's cells (eq. 2, 3), box by box as the authors paint them.

    A box covers the columns ``floor(x1 / w * W)`` to ``ceil(x2 / w * W)`` inclusive, rows alike; each of its cells
    weighs 1 / their number, those beyond the map included, and where boxes overlap the smallest one counts. Background
    cells share a weight of 1.

    Args:
        boxes: (M, 4), x1 y1 x2 y2 in pixels, inside the image.
        size: (H, W) of the map.
        frame: (h, w) in pixels that the whole map stands for.
    """
    foreground = boxes.new_zeros(size)
    for x1, y1, x2, y2 in boxes:
        left, right = int((x1 / frame[1] * size[1]).floor()), int((x2 / frame[1] * size[1]).ceil())
        top, bottom = int((y1 / frame[0] * size[0]).floor()), int((y2 / frame[0] * size[0]).ceil())
        foreground[top : bottom + 1, left : right + 1].clamp_(min=1 / ((bottom - top + 1) * (right - left + 1)))
    free = (foreground == 0).to(boxes.dtype)
    return foreground, free / free.sum().clamp(min=1)


@register_loss("fgd", default_adapter_lr=5.0)
class Fgd(nn.Module):
    """``fgd_parts`` summed over levels, with the factors of the paper, which default to those for RetinaNet.

    A part whose factor is 0 is neither computed nor returned. Two-stage detectors take 5e-5, 2.5e-5, 5e-5 and 5e-7;
    FCOS takes 1.6e-3, 8e-4, 8e-4, 8e-6 and temperature 0.8.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        alpha_fg, beta_bg, gamma_att, lambda_global: the paper's alpha, beta, gamma and lambda.
        temperature: of both attentions.
        scaling: what a map's whole width stands for: ``padded`` is the batch's width, which is where the boxes are;
            ``image`` is each image's own, as in the authors' code; there boxes of smaller images reach into the
            padding.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: teacher maps of one channel; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        alpha_fg: NonNegative = 1e-3,
        beta_bg: NonNegative = 5e-4,
        gamma_att: NonNegative = 5e-4,
        lambda_global: NonNegative = 5e-6,
        temperature: Positive = 0.5,
        scaling: Literal["padded", "image"] = "padded",
        resize: Resize = "none",
    ):
        super().__init__()
        check_sizes(student, teacher, resize)
        narrow = [level for level, t in enumerate(teacher) if t.channels < 2]
        if narrow:
            raise ConfigError(f"the teacher's maps of levels {narrow} have 1 channel; a context block needs 2 or more")
        factors = {"fg": alpha_fg, "bg": beta_bg, "att": gamma_att, "global": lambda_global}
        self.factors = {name: factor for name, factor in factors.items() if factor != 0}
        self.parts = tuple(self.factors)
        self.focal = [name for name in ("fg", "bg") if name in self.factors]
        self.needs = frozenset({"boxes", "sizes"} if self.focal else ())
        self.temperature, self.scaling, self.resize = temperature, scaling, resize
        self.adapters, self.contexts = nn.ModuleList(), nn.ModuleList()
        for s, t in zip(student, teacher, strict=True):
            self.adapters.append(channel_adapter(s, t))
            if "global" in self.factors:
                self.contexts.append(nn.ModuleDict({side: Context(t.channels) for side in ("student", "teacher")}))

    @staticmethod
    def conflicts(
        *, alpha_fg: float, beta_bg: float, gamma_att: float, lambda_global: float, **_: Any
    ) -> Iterator[str]:
        """What is wrong with options taken together."""
        if alpha_fg == beta_bg == gamma_att == lambda_global == 0:
            yield "ALPHA_FG, BETA_BG, GAMMA_ATT and LAMBDA_GLOBAL are all 0; to switch the loss off, set WEIGHT to 0"

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Parts:
        """The ``parts``, with their factors, of L student maps (N, Cs, H, W) and teacher maps (N, C, H, W)."""
        maps = [same_size(s, t, self.resize) for s, t in zip(student, teacher, strict=True)]
        masks = self.masks([(t.shape[2], t.shape[3]) for _, t in maps], batch_info)
        total: Parts = {}
        for level, (s, t) in enumerate(maps):
            adapted = self.adapters[level](s)
            weights = {name: mask.to(t.device, non_blocking=True) for name, mask in masks[level].items()}
            with torch.autocast(t.device.type, enabled=False):
                parts = self._level(level, adapted, t, weights)
            for name, part in parts.items():
                weighted = self.factors[name] * part
                total[name] = total[name] + weighted if name in total else weighted
        return total

    def shown(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, list[Tensor]]:
        """For pictures, L maps (N, H, W) each: the weights of ``foreground`` and ``background`` cells (eq. 2, 3), the
        teacher's spatial ``attention`` (eq. 5), and how much a cell of an object weighs by both.
        """
        maps = [same_size(s, t, self.resize)[1] for s, t in zip(student, teacher, strict=True)]
        looked = [attentions(t.flatten(2).float(), self.temperature)[0].view_as(t[:, 0]) for t in maps]
        found: dict[str, list[Tensor]] = {"attention": looked}
        weights = self.masks([(t.shape[2], t.shape[3]) for t in maps], batch_info)
        for part, name in (("fg", "foreground"), ("bg", "background")):
            if part in self.focal:
                found[name] = [level[part] for level in weights]
        if "fg" in self.focal:
            pairs = zip(found["foreground"], looked, strict=True)
            found["foreground x attention"] = [weight.to(a.device) * a for weight, a in pairs]
        return found

    def masks(self, sizes: list[Size], batch_info: BatchInfo) -> list[Parts]:
        """For each level the weights (N, H, W) of ``fg`` and ``bg``, those of them that count."""
        if not self.focal:
            return [{} for _ in sizes]
        images = batch_info.image_sizes
        frames = images if self.scaling == "image" else [batch_info.padded_size] * len(images)
        both = scale_masks(batch_info.boxes, sizes, frames, images)
        return [{name: m for name, m in zip(("fg", "bg"), pair, strict=True) if name in self.focal} for pair in both]

    def _level(self, level: int, x: Tensor, t: Tensor, masks: Parts) -> Parts:
        """``fgd_parts`` of one level in their fast form: those parts that have a factor."""
        n, area = max(len(t), 1), t.shape[2] * t.shape[3]
        x, t = x.flatten(2), t.flatten(2)
        att = "att" in self.factors
        sides: Any = self.contexts[level] if "global" in self.factors else None
        looked = [attention(mean, self.temperature) for mean in mean_magnitudes(t)] if masks or att else []
        linear = (sides["student"].mask, sides["teacher"].mask) if sides else None
        found = sums(x, t, looked[1] if masks else None, linear, att)
        parts = {name: (mask.flatten(1) * looked[0] * found["error"]).sum() / n for name, mask in masks.items()}
        if att:
            pairs = zip((found["cells"], found["channels"]), looked, strict=True)
            parts["att"] = added((attention(mean, self.temperature) - wanted).abs().sum() for mean, wanted in pairs) / n
        if sides:
            offset = sides["student"].add(found["student_context"]) - sides["teacher"].add(found["teacher_context"])
            # sum (x + a - t - b)^2 over cells, with a - b = offset (N, C)
            parts["global"] = (found["squares"] + (offset * (2 * found["gap"] + area * offset)).sum()) / n
        return parts
