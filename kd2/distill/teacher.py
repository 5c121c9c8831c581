"""The frozen teacher."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from kd2.distill.errors import ConfigError
from kd2.distill.finite import check_maps
from kd2.distill.taps import Maps, Taps


class Teacher:
    """Holds a model that never trains: no gradient, eval mode. ``enforce_mode`` puts it into the mode for a batch.

    It is no ``nn.Module``, so it never enters the parameters, the state dict, DDP's buckets or ``train()`` of whatever
    owns it, and a deep copy of the owner (an EMA copy, say) shares it. Its taps hold its modules, so they live here
    too: the copy listens to the same model, and letting go of the teacher frees all of it.

    Args:
        batch_statistics: normalize by the batch's statistics and drop out as in training, though nothing else trains.
            The running statistics drift then.

    Attributes:
        precision: of its forward pass, whatever the student trains in; the weights stay as they are. None: as the
            student.
    """

    def __init__(self, model: nn.Module, taps: Taps | None = None, batch_statistics: bool = False):
        self.model = model.eval().requires_grad_(False)
        self.taps = taps
        self.batch_statistics = batch_statistics
        self.precision: torch.dtype | None = None
        self._checked = False

    def features(self, run: Callable[[nn.Module, Any], Any], batch: Any, stop: bool = True) -> Maps:
        """The maps of a batch. With ``stop`` the forward pass ends behind the last tapped module.

        Args:
            run: (model, batch): the forward pass.

        Raises:
            ConfigError: NaN or infinity in the first maps ever; later ones are not checked, that would wait for the
                device.
        """
        assert self.taps is not None, "without taps there is nothing to see"
        self.enforce_mode()
        with torch.no_grad(), self.autocast(), self.taps.capture(stop) as maps:
            run(self.model, batch)
        if not self._checked:
            check_maps(maps)
            self._checked = True
        return maps

    def enforce_mode(self) -> None:
        """Undo whatever mode somebody put the model into."""
        self.model.eval()
        if self.batch_statistics:
            for module in self.model.modules():
                if isinstance(module, (_NormBase, _DropoutNd)):
                    module.train()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Computes in ``precision`` inside the block."""
        if self.precision is None:
            return contextlib.nullcontext()
        device = next(self.model.parameters()).device.type
        if self.precision == torch.float32:
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, self.precision)

    def compile(self) -> None:
        """Compile its backbone, of a model without one the whole, at the first call.

        Raises:
            ConfigError: a tap inside it, which a compiled part does not show.
        """
        assert self.taps is not None, "a teacher that is compiled is tapped"
        name = "backbone" if hasattr(self.model, "backbone") else ""
        for tap in self.taps.taps:
            if tap.path.startswith(f"{name}.") if name else tap.path:
                raise ConfigError(f"{self.taps.key}: the tap {tap.alias} is {tap.path}, inside of what is compiled")
        part = getattr(self.model, name) if name else self.model
        part.forward = torch.compile(part.forward)  # hooks stay outside, key names as they are

    def free_unused(self, run: Callable[[], Any]) -> list[str]:
        """Let go of the parts of the model (its direct children) that a forward pass up to the last tap does not call.

        Args:
            run: a full forward pass on a blank batch.

        Returns:
            Names of the parts. None where the pass needs one without calling it.
        """
        assert self.taps is not None, "without taps nothing is used"
        called: set[nn.Module] = set()
        handles = [m.register_forward_pre_hook(lambda m, _inputs: called.add(m)) for m in self.model.modules()]
        try:
            self._up_to_last_tap(run)
        finally:
            for handle in handles:
                handle.remove()
        parts = {name: part for name, part in self.model.named_children() if any(True for _ in part.parameters())}
        idle = {name: part for name, part in parts.items() if called.isdisjoint(part.modules())}
        for name in idle:
            setattr(self.model, name, nn.Identity())
        try:
            self._up_to_last_tap(run)
        except Exception:  # whatever a model does that looks for a part
            for name, part in idle.items():
                setattr(self.model, name, part)
            return []
        return list(idle)

    def _up_to_last_tap(self, run: Callable[[], Any]) -> None:
        assert self.taps is not None
        self.model.eval()  # a blank batch has no statistics to learn from
        with torch.no_grad(), self.taps.capture(stop=True):
            run()

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast the model the way ``nn.Module._apply`` does for the owner."""
        self.model._apply(function)


@dataclass(frozen=True)
class OtherTeacher:
    """A further teacher beside the first one.

    Attributes:
        run: (model, batch): its forward pass.
        name: what its maps and losses are told apart by.
    """

    teacher: Teacher
    run: Callable[[nn.Module, Any], Any]
    name: str

    def features(self, batch: Any) -> Maps:
        """The maps of a batch under ``NAME.ALIAS``, see ``Teacher.features``."""
        return {f"{self.name}.{alias}": maps for alias, maps in self.teacher.features(self.run, batch).items()}
