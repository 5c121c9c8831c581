"""The frozen teacher."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from kd2.distill.taps import Taps


class Teacher:
    """Holds a model that never trains: no gradient, eval mode. ``watch`` puts it into the mode for a batch.

    It is no ``nn.Module``, so it never enters the parameters, the state dict, DDP's buckets or ``train()`` of whatever
    owns it, and a deep copy of the owner (an EMA copy, say) shares it. Its taps hold its modules, so they live here
    too: the copy listens to the same model, and letting go of the teacher frees all of it.

    Args:
        batch_statistics: normalize by the batch's statistics and drop out as in training, though nothing else trains.
            The running statistics drift then.
    """

    def __init__(self, model: nn.Module, taps: Taps | None = None, batch_statistics: bool = False):
        self.model = model.eval().requires_grad_(False)
        self.taps = taps
        self.batch_statistics = batch_statistics

    def enforce_mode(self) -> None:
        """Undo whatever mode somebody put the model into."""
        self.model.eval()
        if self.batch_statistics:
            for module in self.model.modules():
                if isinstance(module, (_NormBase, _DropoutNd)):
                    module.train()

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast the model the way ``nn.Module._apply`` does for the owner."""
        self.model._apply(function)
