"""Strided convolutions over maps narrower than their stride, in bfloat16 on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def widen_narrow_maps(model: nn.Module) -> None:
    """Keep the convolutions inside ``model`` from gradients that were never written, in place; nothing else changes.

    In bfloat16 on a CPU the weight gradient of a padded convolution over a map of fewer columns than its stride is
    uninitialized memory (seen with torch 2.8 and 2.14), as that of P7 for images of at most 64 columns. Columns of
    zeros give the same output where they lie in place of padding and no further step of the kernel fits in.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module.padding, str) and module.padding_mode == "zeros":
            room = 2 * module.padding[1] - module.dilation[1] * (module.kernel_size[1] - 1) - 1
            step = module.stride[1]
            if step > 1 and module.padding[1] and (1 + room) // step == (step + room) // step:
                module.register_forward_pre_hook(_widened)


def _widened(conv: nn.Conv2d, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    x = inputs[0]
    missing = conv.stride[1] - x.shape[-1]
    if missing > 0 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return (F.pad(x, (0, missing)), *inputs[1:])
    return None
