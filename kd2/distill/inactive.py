"""Exact zeros in the place of losses that rest."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from kd2.distill.loss_names import loss_names


def inactive_losses(losses: Mapping[str, nn.Module], others: Collection[Tensor]) -> dict[str, Tensor]:
    """Exact zeros under the names of inactive losses; they reach their parameters, as distributed training asks.

    Args:
        losses: those that are inactive, by name.
        others: values of the step, whose device is the one of the zeros.
    """
    zero = torch.zeros((), device=next((x.device for x in others), None))
    found: dict[str, Tensor] = {}
    for name, loss in losses.items():
        kept = sum((p.flatten()[0] * 0.0 for p in loss.parameters() if p.requires_grad), zero)
        found |= dict.fromkeys(loss_names(name, loss), kept)
    return found
