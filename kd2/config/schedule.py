"""What the keys of time say together: steps, warm-up, when losses count, when a run ends early."""

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from kd2.distill import ConfigError
from kd2.distill.values import shown
from kd2.losses import active_losses

# Lengths in iterations that follow the length of a run.
_OF_SOLVER = ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD")
_OF_LOSSES = ("START_ITER", "RAMP_ITERS", "STOP_ITER")


def check_schedule(cfg: CfgNode) -> None:
    """Raises ConfigError for steps in no rising order, and for a learning rate that would end above its start."""
    solver = cfg.SOLVER
    for key in ("STEPS", "STEPS_EPOCHS"):
        steps = list(solver.get(key, []))
        if any(later <= earlier for earlier, later in zip(steps, steps[1:])):
            raise ConfigError(f"SOLVER.{key} is {shown(steps)}, expected a rising order")
    if solver.BASE_LR_END > solver.BASE_LR:
        raise ConfigError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}, expected at most BASE_LR, {solver.BASE_LR}")
    _check_patience(cfg)


def without_effect(cfg: CfgNode) -> Iterator[str]:
    """Keys that are given and do nothing in this run: a line each, for the log."""
    solver = cfg.SOLVER
    end = f"SOLVER.MAX_ITER is {solver.MAX_ITER}"
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        yield f"SOLVER.STEPS: {shown(late)} have no effect, {end}"
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        yield f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS}: the learning rate never reaches BASE_LR, {end}"
    if (cfg.TEST.PATIENCE + 1) * cfg.TEST.EVAL_PERIOD > solver.MAX_ITER and cfg.TEST.PATIENCE:
        yield f"TEST.PATIENCE is {cfg.TEST.PATIENCE} and EVAL_PERIOD {cfg.TEST.EVAL_PERIOD}: no run ends early, {end}"
    if cfg.KD.get("INIT_FROM_TEACHER") and not active_losses(cfg.KD.LOSSES):
        yield "KD.INIT_FROM_TEACHER has no effect: no loss of KD.LOSSES counts, so no teacher is read"
    for name, block in active_losses(cfg.KD.LOSSES).items():
        start, ramp = block.get("START_ITER", 0), block.get("RAMP_ITERS", 0)
        if start >= solver.MAX_ITER:
            yield f"KD.LOSSES.{name}.START_ITER is {start}: this loss never counts, {end}"
        elif start + ramp >= solver.MAX_ITER:
            yield f"KD.LOSSES.{name}: START_ITER + RAMP_ITERS is {start + ramp}: it never counts fully, {end}"


def scaled_config(cfg: CfgNode, processes: int) -> CfgNode:
    """``cfg`` for another number of processes than its ``SOLVER.REFERENCE_WORLD_SIZE``, if it has one.

    With k times the processes: k times the images of a step and the learning rate (Goyal et al., arXiv 1706.02677,
    section 2.1), and everything that is given in iterations, those of the losses too, divided by k. What is 0 or -1
    stays. Keys in epochs mean the same whatever the batch; a part of a loss with a solver of its own keeps its rate.

    Returns:
        A clone where something changes, with the reference set to ``processes``.

    Raises:
        ConfigError: the reference does not divide ``SOLVER.IMS_PER_BATCH`` or ``KD.UNLABELED.IMS_PER_BATCH``.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return cfg
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    unlabeled = cfg.KD.get("UNLABELED", {})  # classifiers have no such key
    for node, name in ((cfg.SOLVER, "SOLVER"), (unlabeled, "KD.UNLABELED")):
        images = node.get("IMS_PER_BATCH", 0)
        if images % reference:
            raise ConfigError(
                f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, expected a divisor of {name}.IMS_PER_BATCH, {images}"
            )
        if images:
            node.IMS_PER_BATCH = images // reference * processes
    scale = processes / reference
    for key in ("BASE_LR", "BASE_LR_END"):
        cfg.SOLVER[key] *= scale
    blocks = [(block, key) for block in cfg.KD.LOSSES.values() for key in _OF_LOSSES if key in block]
    for node, key in [(cfg.SOLVER, key) for key in _OF_SOLVER] + [(cfg.TEST, "EVAL_PERIOD"), *blocks]:
        node[key] = _shortened(node[key], scale)
    for block in cfg.KD.LOSSES.values():  # rounding must leave an iteration between
        if 0 < block.get("STOP_ITER", -1) <= block.get("START_ITER", 0):
            block["STOP_ITER"] = block["START_ITER"] + 1
    cfg.SOLVER.STEPS = type(cfg.SOLVER.STEPS)(_shortened(step, scale) for step in cfg.SOLVER.STEPS)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = processes
    if frozen:
        cfg.freeze()
    return cfg


def _shortened(iterations: int, scale: float) -> int:
    return max(round(iterations / scale), 1) if iterations > 0 else iterations


def _check_patience(cfg: CfgNode) -> None:
    """Raises ConfigError for TEST.PATIENCE without an evaluation on the way that gives TEST.BEST."""
    test, sets = cfg.TEST, list(cfg.DATASETS.TEST)
    found = f"TEST.PATIENCE is {test.PATIENCE}"
    if not test.PATIENCE:
        return
    if not test.BEST:
        raise ConfigError(f"{found} and TEST.BEST is empty, expected the metric that it follows, such as bbox/AP")
    if not (test.EVAL_PERIOD or test.get("EVAL_EPOCHS")):
        raise ConfigError(f"{found} and TEST.EVAL_PERIOD is 0, expected evaluations on the way")
    if cfg.FRAMEWORK != "detectron2" and len(sets) > 1 and not test.BEST.startswith(f"{sets[0]}/"):
        raise ConfigError(
            f"{found} and TEST.BEST {test.BEST!r}: evaluations on the way score the first of DATASETS.TEST, expected "
            f"a metric that begins with {sets[0]}/"
        )
