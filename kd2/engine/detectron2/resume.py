"""What exact resuming needs besides weights, optimizer and batches."""

from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.nn import sigmoid_focal_loss_jit
from torch import nn

from kd2.data.seeding import random_states, restore_random_states


class RunningNumbers:
    """Plain numbers outside the state dict that a model changes in training: RetinaNet's running loss normalizer."""

    def __init__(self, model: nn.Module):
        self._modules = dict(model.named_modules())
        self._before = {path: _numbers(module) for path, module in self._modules.items()}

    def changed(self) -> dict[str, dict[str, float]]:
        """``{module path: {attribute: number}}`` of those that changed since this object was made."""
        found = {
            path: {k: v for k, v in _numbers(module).items() if self._before[path].get(k) != v}
            for path, module in self._modules.items()
        }
        return {path: numbers for path, numbers in found.items() if numbers}

    def restore(self, changed: dict[str, dict[str, float]]) -> None:
        """Set what ``changed`` gave."""
        for path, numbers in changed.items():
            vars(self._modules[path]).update(numbers)


class RankStates(HookBase):
    """Puts into checkpoints what each process keeps for itself, and the run's seed. Comes before the hook that saves.

    Args:
        period: iterations between checkpoints.
        seed: the run's seed.
        model: see ``RunningNumbers``.
    """

    def __init__(self, period: int, seed: int, model: nn.Module):
        self.period, self.seed, self.numbers = period, seed, RunningNumbers(model)
        self.states: list[dict] = []
        self._restore: list[dict] = []

    def before_train(self) -> None:
        # With more processes than the run was saved with, the new ones go on with their own draws.
        if comm.get_rank() < len(self._restore):
            mine = self._restore[comm.get_rank()]
            restore_random_states(mine["random"])
            self.numbers.restore(mine["numbers"])
        self._restore = []

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self.states = comm.gather({"random": random_states(), "numbers": self.numbers.changed()})

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "ranks": self.states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restore = state["ranks"]


def warm_up() -> None:
    """Run Detectron2's compiled focal loss past its first call, whose gradients differ from later ones in the last bit.

    A run that goes on has that call behind it.
    """
    for _ in range(2):
        x = torch.zeros(1, 1, requires_grad=True)
        sigmoid_focal_loss_jit(x, torch.zeros(1, 1), alpha=0.25, gamma=2.0, reduction="sum").backward()


def _numbers(module: nn.Module) -> dict[str, float]:
    return {name: value for name, value in vars(module).items() if type(value) in (int, float)}
