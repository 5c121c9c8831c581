"""What Detectron2's training loop lacks: exact resuming, and an error that names the loss that broke."""

from typing import Any

from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer
from detectron2.utils import comm
from torch import Tensor

from kd2.core import FiniteWatch, NonFiniteLoss
from kd2.data.seeding import random_states, restore_random_states


class RandomStates(HookBase):
    """Puts the torch generators of all processes and the run's seed into checkpoints. Comes before the hook that saves.

    Args:
        period: iterations between checkpoints.
        seed: the run's seed.
    """

    def __init__(self, period: int, seed: int):
        self.period, self.seed = period, seed
        self.states: list[dict] = []
        self._restore: list[dict] = []

    def before_train(self) -> None:
        # With more processes than the run was saved with, the new ones go on with their own draws.
        if comm.get_rank() < len(self._restore):
            restore_random_states(self._restore[comm.get_rank()])
        self._restore = []

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self.states = comm.gather(random_states())

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "ranks": self.states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restore = state["ranks"]


class _Watched:
    """Names the loss in Detectron2's stop at a loss that is not finite."""

    def _write_metrics(
        self, loss_dict: dict[str, Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        watch = FiniteWatch()
        watch.see(loss_dict, self.iter)
        try:
            super()._write_metrics(loss_dict, data_time, prefix, iter)
        except FloatingPointError:
            watch.check()
            raise NonFiniteLoss(
                f"a loss of another process became NaN or infinite at iteration {self.iter}; "
                "the last checkpoint is kept"
            ) from None


class WatchedTrainer(_Watched, SimpleTrainer):
    """Detectron2's SimpleTrainer; raises NonFiniteLoss before a broken step changes any weight."""


class WatchedAMPTrainer(_Watched, AMPTrainer):
    """Detectron2's AMPTrainer; raises NonFiniteLoss before a broken step changes any weight."""
