"""Noticing NaN: in losses without waiting for the device at every step, in a teacher once, in weights before a save."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd2.distill.errors import ConfigError, NonFiniteLoss


class NaNMonitor:
    """Remembers, on the device, the first iteration at which each loss was not finite."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def see(self, losses: dict[str, Tensor], iteration: int) -> None:
        """Take note of scalars ``{name: loss}``; never synchronizes."""
        for name, loss in losses.items():
            value = loss.detach()
            if name not in self._first:
                self._first[name] = torch.full((), -1, dtype=torch.int64, device=value.device)
            bad = ~torch.isfinite(value) & (self._first[name] < 0)
            self._first[name] = torch.where(bad, iteration, self._first[name])

    def check(self) -> None:
        """Raises NonFiniteLoss naming the first bad iteration and its losses. Reads the device once."""
        if not self._first:
            return
        first = torch.stack(list(self._first.values())).tolist()
        seen = {name: iteration for name, iteration in zip(self._first, first) if iteration >= 0}
        if seen:
            earliest = min(seen.values())
            names = ", ".join(name for name, iteration in seen.items() if iteration == earliest)
            raise NonFiniteLoss(f"{names} became NaN or infinite at iteration {earliest}; the last checkpoint is kept")


def check_maps(maps: Mapping[str, list[Tensor]]) -> None:
    """Raises ConfigError naming the taps of a teacher whose maps ``{alias: levels}`` hold NaN or infinity.

    Reads the device once: such a teacher is so from the first batch on, and no loss could learn from it.
    """
    levels = [(alias, level) for alias, found in maps.items() for level in range(len(found))]
    finite = torch.stack([torch.isfinite(x).all() for found in maps.values() for x in found]).tolist()
    bad = [f"{alias!r} map {level}" for (alias, level), good in zip(levels, finite) if not good]
    if bad:
        raise ConfigError(
            f"the teacher gives NaN or infinity at tap {', '.join(bad)}; check KD.TEACHER.WEIGHTS, and "
            "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD in KD.TEACHER.CONFIG_FILE"
        )


def check_weights(model: nn.Module, iterations: int) -> None:
    """Raises NonFiniteLoss when a weight is not finite after ``iterations``: such a checkpoint would be of no use."""
    bad = [name for name, x in model.state_dict().items() if not torch.isfinite(x).all()]
    if bad:
        raise NonFiniteLoss(
            f"{len(bad)} weights became NaN or infinite by iteration {iterations} ({', '.join(bad[:3])}); "
            "the last checkpoint is kept"
        )
