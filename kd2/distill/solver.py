"""Parts of a loss that are trained by a solver of their own, beside the run's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_CLIP = "own_clip"  # the key by which a group of its own is known; it is saved with the optimizer


@dataclass(frozen=True)
class ParameterGroupOverride:
    """How a submodule of a loss is trained; it holds this as its attribute ``parameter_group``.

    Its parameters share the run's optimizer class, momentum and learning-rate schedule, and nothing else.

    Attributes:
        lr: base learning rate, which the run's schedule multiplies.
        weight_decay: of all its parameters.
        clip: largest L2 norm of its gradients taken together; 0 leaves them as they are. The run's clipping neither
            counts nor changes them.
    """

    lr: float
    weight_decay: float
    clip: float = 0.0


def override_groups(model: nn.Module) -> list[dict[str, Any]]:
    """An optimizer group for every submodule of ``model`` that has an ``parameter_group``; empty where none has one."""
    solvers = [(module, getattr(module, "parameter_group", None)) for module in model.modules()]
    return [
        {
            "params": [p for p in module.parameters() if p.requires_grad],
            "lr": own.lr,
            "weight_decay": own.weight_decay,
            _CLIP: own.clip,
        }
        for module, own in solvers
        if own is not None
    ]


def without_overrides(groups: Iterable[Mapping[str, Any]], own: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``groups`` of the run's solver without the parameters that are in ``own``; a group left empty is dropped."""
    taken = {id(p) for group in own for p in group["params"]}
    kept = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
    return [group for group in kept if group["params"]]


def clip_overrides(groups: Iterable[Mapping[str, Any]]) -> list[nn.Parameter]:
    """Clip each group of ``override_groups`` among an optimizer's by its own norm.

    Returns:
        The parameters of all other groups, untouched: those that the run's clipping is for.
    """
    common = []
    for group in groups:
        if _CLIP not in group:
            common += group["params"]
        elif group[_CLIP] > 0:
            torch.nn.utils.clip_grad_norm_(group["params"], group[_CLIP])
    return common
