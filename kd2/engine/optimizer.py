"""The optimizer and gradient clipping of SOLVER, the same on every road."""

from collections.abc import Iterable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from kd2.distill import ConfigError, clip_overrides, nearest

Groups = list[dict[str, Any]]
_NATIVE = ("SGD", "AdamW")


def build_optimizer(solver: CfgNode, groups: Groups, **common: Any) -> torch.optim.Optimizer:
    """``SOLVER.OPTIMIZER`` over parameter groups: PyTorch's SGD or AdamW, or any other name that timm knows.

    Args:
        common: further arguments of PyTorch's optimizers.

    Raises:
        ConfigError: an unknown optimizer, or one that does not take ``SOLVER.OPTIMIZER_ARGS``.
    """
    name = solver.OPTIMIZER
    options = {key: tuple(x) if isinstance(x, list) else x for key, x in solver.OPTIMIZER_ARGS.items()}
    try:
        if name == "SGD":
            momentum = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
            return torch.optim.SGD(groups, solver.BASE_LR, **momentum, **common, **options)
        if name == "AdamW":
            return torch.optim.AdamW(groups, solver.BASE_LR, **common, **options)
        return _of_timm(solver, groups, options)
    except ConfigError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"SOLVER.OPTIMIZER_ARGS: {name} cannot be built with {options}: {error}") from None


def clip_gradients(groups: Iterable[dict[str, Any]], clip: CfgNode) -> None:
    """Clip by the run's limit what the run's solver trains, and each overridden parameter group by its own.

    Args:
        groups: of the optimizer, with unscaled gradients.
        clip: ``SOLVER.CLIP_GRADIENTS``. ``CLIP_TYPE`` is ``value`` (each entry), ``norm`` (each tensor) or
            ``full_model`` (the norm of everything that the run's solver trains).
    """
    parameters = clip_overrides(groups)
    if not clip.ENABLED:
        return
    if clip.CLIP_TYPE == "value":
        clip_grad_value_(parameters, clip.CLIP_VALUE)
    elif clip.CLIP_TYPE == "full_model":
        clip_grad_norm_(parameters, clip.CLIP_VALUE)
    else:
        _clip_each(parameters, clip)


def _clip_each(parameters: list[nn.Parameter], clip: CfgNode) -> None:
    for parameter in parameters:
        clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.get("NORM_TYPE", 2.0))  # a key of Detectron2 alone


def _of_timm(solver: CfgNode, groups: Groups, options: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        from timm import optim
    except ModuleNotFoundError:
        raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, _NATIVE)}") from None
    name, known = solver.OPTIMIZER.lower(), optim.list_optimizers()
    if name not in known:
        raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, [*_NATIVE, *known])}")
    return optim.create_optimizer_v2(groups, name, solver.BASE_LR, momentum=solver.MOMENTUM, **options)
