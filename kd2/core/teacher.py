"""The frozen teacher."""

from typing import Callable

from torch import Tensor, nn

from kd2.core.taps import Taps


class Teacher:
    """Holds a model that never trains: no gradient, eval mode.

    It is no ``nn.Module``, so it never enters the parameters, the state dict, DDP's buckets or ``train()`` of whatever
    owns it, and a deep copy of the owner (an EMA copy, say) shares it. Its taps hold its modules, so they live here too:
    the copy listens to the same model, and letting go of the teacher frees all of it.
    """

    def __init__(self, model: nn.Module, taps: Taps | None = None):
        self.model = model.eval().requires_grad_(False)
        self.taps = taps

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast the model the way ``nn.Module._apply`` does for the owner."""
        self.model._apply(function)
