"""What the keys of time say together: steps, warm-up, and when losses count."""

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from kd2.distill import ConfigError
from kd2.distill.values import shown
from kd2.losses import active_losses


def check_schedule(cfg: CfgNode) -> None:
    """Raises ConfigError for steps in no rising order, and for a learning rate that would end above its start."""
    solver = cfg.SOLVER
    for key in ("STEPS", "STEPS_EPOCHS"):
        steps = list(solver.get(key, []))
        if any(later <= earlier for earlier, later in zip(steps, steps[1:])):
            raise ConfigError(f"SOLVER.{key} is {shown(steps)}, expected a rising order")
    if solver.BASE_LR_END > solver.BASE_LR:
        raise ConfigError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}, expected at most BASE_LR, {solver.BASE_LR}")


def without_effect(cfg: CfgNode) -> Iterator[str]:
    """Keys that count behind the last iteration only: a line each, for the log."""
    solver = cfg.SOLVER
    end = f"SOLVER.MAX_ITER is {solver.MAX_ITER}"
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        yield f"SOLVER.STEPS: {shown(late)} have no effect, {end}"
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        yield f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS}: the learning rate never reaches BASE_LR, {end}"
    for name, block in active_losses(cfg.KD.LOSSES).items():
        start, ramp = block.get("START_ITER", 0), block.get("RAMP_ITERS", 0)
        if start >= solver.MAX_ITER:
            yield f"KD.LOSSES.{name}.START_ITER is {start}: this loss never counts, {end}"
        elif start + ramp >= solver.MAX_ITER:
            yield f"KD.LOSSES.{name}: START_ITER + RAMP_ITERS is {start + ramp}: it never counts fully, {end}"


def scale_losses(cfg: CfgNode, scale: float) -> None:
    """Make the iterations of all losses ``scale`` times what they are, as those of a run that changes its length."""
    for block in cfg.KD.LOSSES.values():
        for key in ("START_ITER", "RAMP_ITERS", "STOP_ITER"):
            if block.get(key, 0) > 0:
                block[key] = round(block[key] * scale)
