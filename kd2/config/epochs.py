"""Lengths given in epochs as iterations."""

from fvcore.common.config import CfgNode

_IN_EPOCHS = (
    ("SOLVER", "MAX_EPOCHS", "MAX_ITER"),
    ("SOLVER", "STEPS_EPOCHS", "STEPS"),
    ("SOLVER", "WARMUP_EPOCHS", "WARMUP_ITERS"),
    ("SOLVER", "CHECKPOINT_EPOCHS", "CHECKPOINT_PERIOD"),
    ("TEST", "EVAL_EPOCHS", "EVAL_PERIOD"),
)


def write_iterations(cfg: CfgNode, images: int) -> None:
    """Turn the keys that are given in epochs of ``images`` images into those in iterations; at least one each."""
    epoch = images / (cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE)
    for node, given, wanted in _IN_EPOCHS:
        value = cfg[node][given]
        if value:
            steps = [max(round(x * epoch), 1) for x in (value if isinstance(value, list) else [value])]
            cfg[node][wanted] = steps if isinstance(value, list) else steps[0]
