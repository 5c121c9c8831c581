"""What ``SOLVER`` has in common on every path that Lightning trains."""

from fvcore.common.config import CfgNode as CN


def add_shared_keys(solver: CN) -> None:
    """Add the optimizer's and schedule's constants, gradient clipping and mixed precision to ``SOLVER``."""
    solver.MOMENTUM = 0.9
    solver.NESTEROV = False
    # As in PyTorch: AdamW takes away LR x WEIGHT_DECAY x w in each step. Papers whose decay is not multiplied by the
    # learning rate (function matching) print wd = BASE_LR x WEIGHT_DECAY: write WEIGHT_DECAY = wd / BASE_LR.
    # SGD and Adam of PyTorch add WEIGHT_DECAY x w to the gradient.
    solver.WEIGHT_DECAY = 0.0001
    solver.WEIGHT_DECAY_NORM = 0.0
    # None: as WEIGHT_DECAY.
    solver.WEIGHT_DECAY_BIAS = None
    # WarmupMultiStepLR multiplies by GAMMA at every step.
    solver.GAMMA = 0.1
    # The power of WarmupPolyLR.
    solver.POLY_LR_POWER = 0.9
    solver.CLIP_GRADIENTS = CN()
    solver.CLIP_GRADIENTS.ENABLED = False
    # value (each entry) or full_model (the norm of all gradients).
    solver.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    solver.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    solver.AMP = CN()
    solver.AMP.ENABLED = False
    # bf16 or fp16.
    solver.AMP.PRECISION = "bf16"
    solver.OPTIMIZER_ARGS = CN(new_allowed=True)
