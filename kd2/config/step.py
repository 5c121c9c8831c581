"""How one training step is taken, on every path that Lightning trains."""

from fvcore.common.config import CfgNode as CN


def add_step_keys(solver: CN) -> None:
    """Add gradient clipping and mixed precision to ``SOLVER``."""
    solver.CLIP_GRADIENTS = CN()
    solver.CLIP_GRADIENTS.ENABLED = False
    # value (each entry) or full_model (the norm of all gradients).
    solver.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    solver.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    solver.AMP = CN()
    solver.AMP.ENABLED = False
    # bf16 or fp16.
    solver.AMP.PRECISION = "bf16"
