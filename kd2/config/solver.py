"""``SOLVER`` of the frameworks that Lightning trains, with the defaults of Detectron2 wherever it has the key."""

from fvcore.common.config import CfgNode as CN

from kd2.config.checks import Checks, one_of

CHECKS: Checks = {
    "SOLVER.LR_SCHEDULER_NAME": one_of("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"),
    "SOLVER.AMP.PRECISION": one_of("bf16", "fp16"),
    "MODEL.DEVICE": one_of("auto", "cpu", "cuda"),
}


def lightning_solver() -> CN:
    """A new ``SOLVER`` node: length, optimizer, schedule, clipping, mixed precision."""
    solver = CN()
    # Optimizer steps of the training.
    solver.MAX_ITER = 40000
    # Images of a step, over all processes.
    solver.IMS_PER_BATCH = 16
    # The learning rate is that of the whole batch; nothing scales it with the number of GPUs.
    solver.BASE_LR = 0.001
    # Where cosine and poly end.
    solver.BASE_LR_END = 0.0
    solver.MOMENTUM = 0.9
    solver.NESTEROV = False
    # As in PyTorch: AdamW takes away LR x WEIGHT_DECAY x w in each step. Papers whose decay is not multiplied by the
    # learning rate (function matching) print wd = BASE_LR x WEIGHT_DECAY: write WEIGHT_DECAY = wd / BASE_LR.
    # SGD and Adam of PyTorch add WEIGHT_DECAY x w to the gradient.
    solver.WEIGHT_DECAY = 0.0001
    solver.WEIGHT_DECAY_NORM = 0.0
    # None: as WEIGHT_DECAY.
    solver.WEIGHT_DECAY_BIAS = None
    # WarmupMultiStepLR, WarmupCosineLR or WarmupPolyLR.
    solver.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    # WarmupMultiStepLR multiplies by GAMMA at every one of these iterations.
    solver.STEPS = [30000]
    solver.GAMMA = 0.1
    # The power of WarmupPolyLR.
    solver.POLY_LR_POWER = 0.9
    # The warm-up is a straight line from WARMUP_FACTOR x BASE_LR to where the schedule is after WARMUP_ITERS.
    solver.WARMUP_FACTOR = 0.001
    solver.WARMUP_ITERS = 1000
    # The schedule begins behind the warm-up instead of at iteration 0.
    solver.RESCALE_INTERVAL = False
    # Iterations between checkpoints.
    solver.CHECKPOINT_PERIOD = 5000
    solver.CLIP_GRADIENTS = CN()
    solver.CLIP_GRADIENTS.ENABLED = False
    # value (each entry), norm (of each parameter's gradient) or full_model (the norm of all gradients).
    solver.CLIP_GRADIENTS.CLIP_TYPE = "value"
    solver.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    # The norm of CLIP_TYPE norm.
    solver.CLIP_GRADIENTS.NORM_TYPE = 2.0
    solver.AMP = CN()
    solver.AMP.ENABLED = False
    # bf16 or fp16.
    solver.AMP.PRECISION = "bf16"
    return solver
