"""The precision that a loss is computed in."""

import torch
from torch import Tensor


def wide(a: Tensor, b: Tensor) -> torch.dtype:
    """The precision of both together, but at least float32: half precision loses a student near its teacher."""
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
