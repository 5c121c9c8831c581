"""An exponential moving average of a network in training: what is evaluated and exported in its place."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """The moving average of a network's parameters and statistics.

    After optimizer step n, the first of which is 0, ``average <- d average + (1 - d) network``; step 0 copies. Whole
    numbers among the buffers (counters, tables of indices) are the network's.

    It is no module, so that whatever trains the network neither moves nor synchronizes it.

    Args:
        network: what trains.
        decay: d, in [0, 1).
        warmup: d of step n is at most ``1 - (1 + n)^(-2/3)``, so that a short run forgets its start too.
    """

    def __init__(self, network: nn.Module, decay: float, warmup: bool):
        self.decay, self.warmup = decay, warmup
        self._source, self._averaged = network, AveragedModel(network, use_buffers=True)
        self._averaged.requires_grad_(False).eval()
        self._settled = True

    @property
    def network(self) -> nn.Module:
        """The average, in eval mode."""
        if not self._settled:  # what networks keep for eval mode, such as gathered biases, they let go in train mode
            self._averaged.module.train().eval()
            self._settled = True
        return self._averaged.module

    def update(self) -> None:
        """Take in the network after an optimizer step.

        ``AveragedModel.update_parameters`` would wait for the device at every step, to read its counter there.
        """
        steps = int(self._averaged.n_averaged)  # never moved off the host
        decay = self.decay_at(steps) if steps else 0.0
        pairs = list(zip(_tensors(self._averaged.module), _tensors(self._source), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)(*map(list, zip(*floats, strict=True)), steps)
        for average, source in pairs:
            if not average.is_floating_point():
                average.copy_(source)
        self._averaged.n_averaged += 1
        self._settled = False

    def decay_at(self, step: int) -> float:
        """d of optimizer step ``step``, from 0."""
        return min(self.decay, 1 - (1 + step) ** (-2 / 3)) if self.warmup else self.decay

    def resume(self, steps: int) -> None:
        """Go on from an average over ``steps`` optimizer steps, which was loaded into ``network``."""
        self._averaged.n_averaged.fill_(steps)


def average_of(network: nn.Module, options: Any) -> WeightAverage | None:
    """The average of ``network`` by the group ``MODEL.EMA`` of a config; None where it is not enabled."""
    return WeightAverage(network, options.DECAY, options.WARMUP) if options.ENABLED else None


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return (x.detach() for x in itertools.chain(network.parameters(), network.buffers()))
