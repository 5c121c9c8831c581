"""The numbers that a training step computes in: ``SOLVER.AMP``, the same on every road."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from fvcore.common.config import CfgNode

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def forward_precision(solver: CfgNode, device_type: str) -> AbstractContextManager[Any]:
    """What the forward pass of a training step runs in; weights, gradients and evaluations stay float32.

    Args:
        solver: ``SOLVER``.
        device_type: cpu or cuda.
    """
    return torch.autocast(device_type, DTYPES[solver.AMP.PRECISION], enabled=solver.AMP.ENABLED)
