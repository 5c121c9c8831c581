"""TaT: one-to-many matching, and hierarchical distillation, against their formula.

The whole map of 64 x 64 has 256 channels, as the authors' segmentation taps have with every backbone, and so do feature
pyramids. Unscaled similarities of so many unit-normal channels are a nearly one-hot attention, and five of six matrix
products nearly fall away. With 64 channels, beside it, 7 % of the entries count: both forms need all six products and
what is saved is the traffic of P x P maps. The projections are in both times; larger ones than these 1x1 make both
forms slower alike.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import Case
from kd2.distill import BatchInfo, FeatureSpec
from kd2.losses.tat import Tat, patch_tokens, target_aware_distance

# From query, key, value and target maps (B, C, H, W) to the parts of the loss.
Formula = Callable[[list[Tensor]], list[Tensor]]

# Of the authors' segmentation code: maps of this size are those of segmentation.
_PROJECTIONS = {"projection_kernel": 1, "theta": "learned", "statistics": "image"}


def whole_map(channels: int) -> Callable[[torch.device], Case]:
    """Plain TaT on 2 x ``channels`` x 64 x 64 with segmentation projections, forward and backward."""

    def build(device: torch.device) -> Case:
        return _case(device, (64, 64), channels, lambda maps: [_matched([_rows(x) for x in maps])], **_PROJECTIONS)

    return build


def hierarchical(device: torch.device) -> Case:
    """Patches of 4 x 4 in groups of 4 and anchors of 4 x 4 cells on 2 x 64 x 65 x 65, segmentation projections."""

    def formula(maps: list[Tensor]) -> list[Tensor]:
        pooled = [_rows(F.avg_pool2d(x, 4)) for x in maps]
        return [_matched([patch_tokens(x, (4, 4), 4, 1) for x in maps]), 0.4 * _matched(pooled)]

    return _case(device, (65, 65), 64, formula, **_PROJECTIONS, patch=(4, 4), group=4, anchor_weight=0.4)


def _case(device: torch.device, size: tuple[int, int], channels: int, formula: Formula, **options: Any) -> Case:
    torch.manual_seed(0)
    student = torch.randn(2, channels, *size, device=device, requires_grad=True)
    teacher = torch.randn(2, channels, *size, device=device)
    spec = [FeatureSpec(channels, size, (8, 8))]
    loss = Tat(spec, spec, **options).to(device)
    batch_info = BatchInfo([], (0, 0))
    # The bias of theta's norm shifts all logits of a softmax: its gradient is zero up to rounding.
    leaves = [student, *(p for name, p in loss.named_parameters() if not name.endswith("key.bn.bias"))]
    return Case(
        lambda: list(loss([student], [teacher], batch_info).values()),
        lambda: formula(loss.adapters[0](student, teacher)),
        tolerance=1e-4,
        leaves=leaves,
    )


def _matched(tokens: list[Tensor]) -> Tensor:
    query, key, value, target = tokens
    return target_aware_distance(query, key, value, target) / target.numel()


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


CASES = {"tat_hierarchical": hierarchical, "tat_64x64": whole_map(256), "tat_64x64_of_64_channels": whole_map(64)}
