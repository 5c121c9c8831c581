"""The optimizer of student and losses from Detectron2's SOLVER keys."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from kd2.engine.detectron2.clipping import clipping
from kd2.distill import ConfigError, without_overrides, nearest, override_groups


def build_optimizer(cfg: CfgNode, student: nn.Module, losses: nn.Module) -> torch.optim.Optimizer:
    """``SOLVER.OPTIMIZER`` over the student's groups, as plain Detectron2 makes them, then those of the losses.

    Parts of the losses with an ``parameter_group`` come last.

    Raises:
        ConfigError: an unknown optimizer or type of clipping.
    """
    solver = cfg.SOLVER
    own = override_groups(losses)
    groups = _groups(cfg, student) + without_overrides(_groups(cfg, losses), own) + own
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "foreach": True}
    if solver.OPTIMIZER == "SGD":
        kind = clipping(torch.optim.SGD, solver.CLIP_GRADIENTS, own)
        return kind(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)
    if solver.OPTIMIZER == "AdamW":
        return clipping(torch.optim.AdamW, solver.CLIP_GRADIENTS, own)(groups, **common)
    raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, ('SGD', 'AdamW'))}")


def _groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
