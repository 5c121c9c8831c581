"""How what distillation trains beside the student is trained: adapters, and parts with a solver of their own."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Groups = list[dict[str, Any]]

# The keys by which such a group is known: the norm that its gradients are clipped to together with those of the same
# owner. They are saved with the optimizer.
_CLIP, _OWNER = "own_clip", "owner"
# Largest L2 norm of the gradients of one loss's adapters taken together, whatever the scale of the loss.
ADAPTER_CLIP = 1.0


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


def loss_groups(losses: nn.ModuleDict, rates: Mapping[str, float], groups_of: Callable[[nn.Module], Groups]) -> Groups:
    """The optimizer groups of losses: of each its adapters, clipped apart from everything else, then its overrides.

    Args:
        losses: by name.
        rates: of each loss its adapters' learning rate over that of the run.
        groups_of: how the run groups the parameters of any module, with their ``lr``.
    """
    found: Groups = []
    for name, loss in losses.items():
        own = [{**group, _OWNER: f"{name}.{index}"} for index, group in enumerate(override_groups(loss))]
        adapters = _without(groups_of(loss), own)
        found += [{**group, "lr": rates[name] * group["lr"], _CLIP: ADAPTER_CLIP, _OWNER: name} for group in adapters]
        found += own
    return found


def has_adapters(loss: nn.Module) -> bool:
    """Whether a loss trains something beside the student that has no solver of its own."""
    return bool(_without(trained(loss, 1.0), override_groups(loss)))


def clip_adapters(losses: nn.ModuleDict) -> None:
    """Clip the gradients of losses as the engine's trainers do: those of each loss's adapters to ``ADAPTER_CLIP``, of
    each part with a solver of its own to its ``clip``."""
    clip_overrides(loss_groups(losses, dict.fromkeys(losses, 1.0), functools.partial(trained, lr=1.0)))


def trained(model: nn.Module, lr: float) -> Groups:
    """What of a module is trained, as one optimizer group with the learning rate ``lr``."""
    return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]


def override_groups(model: nn.Module) -> Groups:
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


def _without(groups: Iterable[Mapping[str, Any]], own: Iterable[Mapping[str, Any]]) -> Groups:
    """``groups`` of the run's solver without the parameters that are in ``own``; a group left empty is dropped."""
    taken = {id(p) for group in own for p in group["params"]}
    kept = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
    return [group for group in kept if group["params"]]


def clip_overrides(groups: Iterable[Mapping[str, Any]]) -> list[nn.Parameter]:
    """Clip the groups of each owner in ``loss_groups`` among an optimizer's by their own norm.

    Returns:
        The parameters of all other groups, untouched: those that the run's clipping is for.
    """
    common: list[nn.Parameter] = []
    owned: dict[tuple[str, float], list[nn.Parameter]] = {}
    for group in groups:
        if _CLIP in group:
            owned.setdefault((group[_OWNER], group[_CLIP]), []).extend(group["params"])
        else:
            common += group["params"]
    for (_, clip), parameters in owned.items():
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
    return common
