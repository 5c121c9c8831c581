"""Parameter groups and learning-rate schedule of SOLVER on the roads that Lightning trains."""

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    PolynomialDecayParamScheduler,
)
from torch import nn

from kd2.networks.level_norm import LevelBatchNorm

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, LevelBatchNorm)


def parameter_groups(model: nn.Module, cfg: CfgNode) -> list[dict]:
    """Optimizer groups of a model: weights, norm layers and biases with their own weight decay."""
    solver = cfg.SOLVER
    decays = {
        "weights": solver.WEIGHT_DECAY,
        "norms": solver.WEIGHT_DECAY_NORM,
        "biases": solver.WEIGHT_DECAY if solver.WEIGHT_DECAY_BIAS is None else solver.WEIGHT_DECAY_BIAS,
    }
    members: dict[str, list[nn.Parameter]] = {kind: [] for kind in decays}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kind = "norms" if isinstance(module, _NORMS) else "biases" if name == "bias" else "weights"
                members[kind].append(parameter)
    return [
        {"params": found, "lr": solver.BASE_LR, "weight_decay": decays[kind]}
        for kind, found in members.items()
        if found
    ]


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of ``SOLVER.LR_SCHEDULER_NAME`` with its linear warm-up, stepped once an iteration."""
    steps = cfg.SOLVER.MAX_ITER
    factor = lr_factor(cfg)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: factor(min(iteration / steps, 1.0)))


def lr_factor(cfg: CfgNode) -> ParamScheduler:
    """What the learning rate is multiplied by, over the share of the run in [0, 1]."""
    return _with_warmup(cfg, _decay(cfg))


def _decay(cfg: CfgNode) -> ParamScheduler:
    solver = cfg.SOLVER
    steps = [step for step in solver.STEPS if 0 < step < solver.MAX_ITER]
    end = solver.BASE_LR_END / solver.BASE_LR if solver.BASE_LR else 0.0
    schedules = {
        "WarmupMultiStepLR": lambda: MultiStepParamScheduler(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        ),
        "WarmupCosineLR": lambda: CosineParamScheduler(1.0, end),
        "WarmupPolyLR": lambda: _Falling(PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER), end),
    }
    return schedules[solver.LR_SCHEDULER_NAME]()


class _Falling(ParamScheduler):
    """A schedule from 1 to 0, stretched to end at ``end``."""

    def __init__(self, schedule: ParamScheduler, end: float):
        self.schedule, self.end = schedule, end

    def __call__(self, where: float) -> float:
        return self.end + (1 - self.end) * self.schedule(where)


def _with_warmup(cfg: CfgNode, decay: ParamScheduler) -> ParamScheduler:
    """A straight line from WARMUP_FACTOR to where the decay is by then, as in Detectron2.

    With RESCALE_INTERVAL the whole decay follows the warm-up: cosine to zero behind a line from 0 is function
    matching's.
    """
    share = min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0)
    if share == 0:
        return decay
    rescale = cfg.SOLVER.RESCALE_INTERVAL
    warmup = LinearParamScheduler(cfg.SOLVER.WARMUP_FACTOR * decay(0.0), decay(0.0 if rescale else share))
    if share == 1:
        return warmup
    scaling = ["rescaled", "rescaled" if rescale else "fixed"]
    return CompositeParamScheduler([warmup, decay], [share, 1 - share], scaling)
