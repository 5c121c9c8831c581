"""Pixel-wise, channel-wise and pair-wise distillation against their formulas."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import Case
from kd2.distill import BatchInfo, FeatureSpec
from kd2.losses.kl import KLDivergence, channel_divergences, cross_entropies, divergences
from kd2.losses.pairwise import Pairwise, directions, pairwise_loss

# From the student's and the teacher's map to the loss.
Formula = Callable[[Tensor, Tensor], Tensor]
_CELLS = {"patch": (1, 1)}


def pixelwise(device: torch.device) -> Case:
    """Cross-entropy of 1 x 19 x 512 x 512 scores, forward and backward."""
    options = {"divergence": "cross_entropy", "reduction": "map_mean"}

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        return cross_entropies(student, teacher).sum() / (512 * 512)

    return _case(device, KLDivergence, formula, (19, 19), (1, 512, 512), **options)


def divergence(device: torch.device) -> Case:
    """KL divergence at temperature 4 of 1 x 19 x 512 x 512 scores, forward and backward."""

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        return divergences(student, teacher, 4.0).mean()

    return _case(device, KLDivergence, formula, (19, 19), (1, 512, 512), temperature=4.0)


def channels(device: torch.device) -> Case:
    """KL divergence over the cells of 1 x 19 x 512 x 512 scores, forward and backward."""

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        return channel_divergences(student, teacher, 4.0).mean()

    options = {"softmax": "cells", "reduction": "channel_mean", "temperature": 4.0}
    return _case(device, KLDivergence, formula, (19, 19), (1, 512, 512), **options)


def pairwise(device: torch.device) -> Case:
    """Every cell of 2 x 65 x 65 a node, 128 channels in the student and 512 in the teacher, forward and backward."""
    return _case(device, Pairwise, _graphs(0), (128, 512), (2, 65, 65), **_CELLS)


def local_pairwise(device: torch.device) -> Case:
    """Nodes connected to the 24 around them, 2 x 33 x 33, forward and backward."""
    return _case(device, Pairwise, _graphs(2), (128, 512), (2, 33, 33), connection_range=2, **_CELLS)


def _graphs(reach: int) -> Formula:
    return lambda s, t: pairwise_loss(directions(s, "detached", 1e-8), directions(t, "detached", 1e-8), reach)


def _case(
    device: torch.device,
    kind: type[nn.Module],
    formula: Formula,
    channels: tuple[int, int],
    shape: tuple[int, int, int],
    **options: Any,
) -> Case:
    torch.manual_seed(0)
    images, *size = shape
    student, teacher = (torch.randn(images, c, *size, device=device) for c in channels)
    student.requires_grad_()
    loss = kind(*([FeatureSpec(c, tuple(size), (8, 8))] for c in channels), **options)
    return Case(
        lambda: [loss([student], [teacher], BatchInfo([], (0, 0)))],
        lambda: [formula(student, teacher)],
        tolerance=1e-4,
        leaves=[student],
    )


CASES = {
    "pixelwise_19x512x512": pixelwise,
    "divergence_19x512x512": divergence,
    "channel_kd_19x512x512": channels,
    "pairwise_65x65": pairwise,
    "pairwise_33x33_range_2": local_pairwise,
}
