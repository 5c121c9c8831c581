"""Gradient clipping over all parameters at once; Detectron2 itself clips each tensor on its own."""

import torch


def clipping(optimizer: type[torch.optim.Optimizer], limit: float) -> type[torch.optim.Optimizer]:
    """A subclass of ``optimizer`` whose ``step`` first scales all gradients to a total L2 norm of at most ``limit``.

    Inside ``step`` the gradients are already unscaled and averaged, in float16 training too.
    """

    class Clipping(optimizer):
        def step(self) -> None:
            torch.nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], limit)
            super().step()

    Clipping.__name__ = f"{optimizer.__name__}WithNormClipping"
    return Clipping
