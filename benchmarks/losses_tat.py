"""TaT: one-to-many matching against the explicit attention map, and hierarchical distillation against the formula.

All without denormals, which a nearly one-hot attention is full of: they would slow the explicit form down further.

The whole map of 64 x 64 has 256 channels, as the authors' segmentation taps have with every backbone, and so do feature
pyramids. Unscaled similarities of so many unit-normal channels are a nearly one-hot attention, and five of six matrix
products nearly fall away. With 64 channels, beside it, 7 % of the entries count: both forms need all six products, and
what is saved is the traffic of P x P maps. The projections are in both times; larger ones than these 1x1 make both forms
slower alike.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import Case
from kd2.distill import FeatureSpec, BatchInfo
from kd2.losses.tat import Tat

# From query, key, value and target maps (B, C, H, W) to the parts of the loss.
Formula = Callable[[list[Tensor]], list[Tensor]]

# Of the authors' segmentation code: maps of this size are those of segmentation.
_PROJECTIONS = {"kernel": 1, "theta": "learned", "statistics": "image"}


def whole_map(channels: int) -> Callable[[torch.device], Case]:
    """Plain TaT on 2 x ``channels`` x 64 x 64 with segmentation projections, forward and backward."""

    def build(device: torch.device) -> Case:
        return _case(device, (64, 64), channels, lambda maps: [_matched(*(_rows(x) for x in maps))], **_PROJECTIONS)

    return build


def hierarchical(device: torch.device) -> Case:
    """Patches of 4 x 4 in groups of 4 and anchors of 4 x 4 cells on 2 x 64 x 65 x 65, segmentation projections."""

    def formula(maps: list[Tensor]) -> list[Tensor]:
        pooled = [_rows(F.avg_pool2d(x, 4)) for x in maps]
        return [_matched(*(_grouped(x) for x in maps)), 0.4 * _matched(*pooled)]

    return _case(device, (65, 65), 64, formula, **_PROJECTIONS, patch=(4, 4), group=4, anchor_weight=0.4)


def _case(device: torch.device, size: tuple[int, int], channels: int, formula: Formula, **options) -> Case:
    torch.manual_seed(0)
    student = torch.randn(2, channels, *size, device=device, requires_grad=True)
    teacher = torch.randn(2, channels, *size, device=device)
    spec = [FeatureSpec(channels, size, (8, 8))]
    criterion = Tat(spec, spec, **options).to(device)
    batch_info = BatchInfo([], (0, 0))
    # The bias of theta's norm shifts all logits of a softmax: its gradient is zero up to rounding.
    leaves = [student, *(p for name, p in criterion.named_parameters() if not name.endswith("key.bn.bias"))]

    def finished(parts: list[Tensor]) -> list[Tensor]:
        return [*parts, *torch.autograd.grad(sum(parts), leaves)]

    return Case(
        _without_denormals(lambda: finished(list(criterion([student], [teacher], batch_info).values()))),
        _without_denormals(lambda: finished(formula(criterion.blocks[0](student, teacher)))),
        tolerance=1e-4,
    )


def _matched(query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the values mixed by an explicit attention map; rows (B, P, d)."""
    attention = torch.softmax(query @ key.transpose(1, 2), dim=2)
    return F.mse_loss(attention @ value, target)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _grouped(x: Tensor) -> Tensor:
    """Rows (B * G, 16, 4 C) of 4 x 4 patches, four of them stacked on the channel axis."""
    n, channels = x.shape[:2]
    patches = F.unfold(x, 4, stride=4).view(n, channels, 16, -1)
    return patches.permute(0, 3, 1, 2).reshape(-1, 4 * channels, 16).transpose(1, 2)


def _without_denormals(call: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    def flushed() -> list[Tensor]:
        torch.set_flush_denormal(True)
        try:
            return call()
        finally:
            torch.set_flush_denormal(False)

    return flushed


CASES = {"tat_hierarchical": hierarchical, "tat_64x64": whole_map(256), "tat_64x64_of_64_channels": whole_map(64)}
