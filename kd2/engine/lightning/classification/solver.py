"""Optimizers and schedules of timm from the solver keys, and epochs as iterations."""

from collections.abc import Callable

import timm.optim
import torch
from fvcore.common.config import CfgNode
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler

from kd2.distill import ConfigError, nearest

_IN_EPOCHS = (
    ("SOLVER", "MAX_EPOCHS", "MAX_ITER"),
    ("SOLVER", "STEPS_EPOCHS", "STEPS"),
    ("SOLVER", "WARMUP_EPOCHS", "WARMUP_ITERS"),
    ("SOLVER", "CHECKPOINT_EPOCHS", "CHECKPOINT_PERIOD"),
    ("TEST", "EVAL_EPOCHS", "EVAL_PERIOD"),
)


def write_iterations(cfg: CfgNode, images: int) -> None:
    """Turn the keys that are given in epochs of ``images`` images into those in iterations; at least one each."""
    epoch = images / cfg.SOLVER.IMS_PER_BATCH
    for node, given, wanted in _IN_EPOCHS:
        value = cfg[node][given]
        if isinstance(value, (int, float)) and value < 0:
            raise ConfigError(f"{node}.{given} is {value}, expected 0 or more")
        if value:
            steps = [max(round(x * epoch), 1) for x in (value if isinstance(value, list) else [value])]
            cfg[node][wanted] = steps if isinstance(value, list) else steps[0]


def build_optimizer(cfg: CfgNode, groups: list[dict]) -> torch.optim.Optimizer:
    """``SOLVER.OPTIMIZER``, a name of timm in any case, over the groups."""
    solver = cfg.SOLVER
    name, known = solver.OPTIMIZER.lower(), timm.optim.list_optimizers()
    if name not in known:
        raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, known)}")
    if name == "sgd" and not solver.NESTEROV:
        name = "momentum"  # timm's sgd is Nesterov's
    options = {key: tuple(x) if isinstance(x, list) else x for key, x in solver.OPTIMIZER_ARGS.items()}
    try:
        return timm.optim.create_optimizer_v2(groups, name, solver.BASE_LR, momentum=solver.MOMENTUM, **options)
    except TypeError as error:
        text = f"SOLVER.OPTIMIZER_ARGS: {solver.OPTIMIZER} cannot be built with {options}: {error}"
        raise ConfigError(text) from None


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Scheduler:
    """timm's schedule of ``SOLVER.LR_SCHEDULER_NAME``, asked with the number of optimizer steps."""
    solver = cfg.SOLVER
    warmup = {
        "warmup_t": solver.WARMUP_ITERS, "warmup_lr_init": solver.WARMUP_FACTOR * solver.BASE_LR, "t_in_epochs": False,
    }
    rest = max(solver.MAX_ITER - solver.WARMUP_ITERS, 1)
    falling = warmup | {"lr_min": solver.BASE_LR_END, "warmup_prefix": True}
    schedules: dict[str, Callable[[], Scheduler]] = {
        # timm counts a milestone one step early.
        "WarmupMultiStepLR": lambda: MultiStepLRScheduler(
            optimizer, [s + 1 for s in sorted(solver.STEPS)], solver.GAMMA, warmup_prefix=False, **warmup
        ),
        "WarmupCosineLR": lambda: CosineLRScheduler(optimizer, rest, **falling),
        "WarmupPolyLR": lambda: PolyLRScheduler(optimizer, rest, power=solver.POLY_LR_POWER, **falling),
    }
    if solver.LR_SCHEDULER_NAME not in schedules:
        raise ConfigError(
            f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}; {nearest(solver.LR_SCHEDULER_NAME, schedules)}"
        )
    return schedules[solver.LR_SCHEDULER_NAME]()
