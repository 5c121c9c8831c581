"""Group normalization that takes maps of a single value."""

import torch
from torch import Tensor, nn


class LenientGroupNorm(nn.GroupNorm):
    """PyTorch's GroupNorm, whose forward refuses a batch in which a group is one value; here that value becomes the
    bias, as the formula has it. Everything else is the same to the last bit.

    One image of at most 128 pixels has one cell on P7, so a group of one channel is such a value.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) normalized."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


def allow_single_values(model: nn.Module) -> None:
    """Make every GroupNorm inside ``model`` a lenient one, in place; parameters and names stay."""
    for module in model.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = LenientGroupNorm
