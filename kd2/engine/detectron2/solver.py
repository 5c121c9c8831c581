"""Optimizer and learning rates of ``SOLVER``, or of a LazyConfig file."""

import functools

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver import LRMultiplier, LRScheduler

from kd2.distill import Distiller
from kd2.engine.detectron2 import compat, lazy
from kd2.engine.optimizer import build_optimizer, clip_gradients


def clipped_optimizer(cfg: CfgNode, distiller: Distiller) -> torch.optim.Optimizer:
    """``SOLVER.OPTIMIZER`` over the student's groups, as plain Detectron2 makes them, then those of the losses.

    Before each step, when the gradients are unscaled and averaged over the processes, they are clipped.

    Raises:
        ConfigError: see ``kd2.engine.optimizer.build_optimizer``.
    """
    groups = compat.parameter_groups(cfg, distiller.student, **lazy.rate_options(cfg))
    groups += distiller.adapter_groups(functools.partial(compat.parameter_groups, cfg))
    optimizer = build_optimizer(cfg.SOLVER, groups, foreach=True)
    clip = cfg.SOLVER.CLIP_GRADIENTS
    optimizer.register_step_pre_hook(lambda optimizer, _args, _kwargs: clip_gradients(optimizer.param_groups, clip))
    return optimizer


def learning_rate_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule of ``SOLVER.LR_SCHEDULER_NAME``, Detectron2's own or WarmupPolyLR; of a LazyConfig file its own."""
    multiplier = lazy.multiplier(cfg)
    if multiplier is not None:
        return LRMultiplier(optimizer, multiplier, cfg.SOLVER.MAX_ITER)
    own = cfg.clone()
    own.defrost()
    # Detectron2 leaves out steps behind the end, but breaks at one that is the end.
    own.SOLVER.STEPS = [step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER]
    return build_lr_scheduler(own, optimizer)
