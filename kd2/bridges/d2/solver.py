"""The optimiser of student and terms from Detectron2's SOLVER keys."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from kd2.bridges.d2.clipping import clipping
from kd2.core import ConfigError, nearest

_CLIPS = ("value", "norm", "full_model")


def build_optimizer(cfg: CfgNode, student: nn.Module, terms: nn.Module) -> torch.optim.Optimizer:
    """``SOLVER.OPTIMIZER`` over the student's groups, as plain Detectron2 makes them, then those of the terms.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE``: ``value``, ``norm`` (of each tensor) or ``full_model`` (norm of everything).

    Raises:
        ConfigError: an unknown optimiser or type of clipping.
    """
    solver = cfg.SOLVER
    groups = _groups(cfg, student) + _groups(cfg, terms)
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "foreach": True}
    if solver.OPTIMIZER == "SGD":
        kind = _clipped(cfg, torch.optim.SGD)
        return kind(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)
    if solver.OPTIMIZER == "AdamW":
        return _clipped(cfg, torch.optim.AdamW)(groups, **common)
    raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, ('SGD', 'AdamW'))}")


def _groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )


def _clipped(cfg: CfgNode, optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in _CLIPS:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; {nearest(clip.CLIP_TYPE, _CLIPS)}")
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        return clipping(optimizer, clip.CLIP_VALUE)
    return maybe_add_gradient_clipping(cfg, optimizer)
