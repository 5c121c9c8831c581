"""What is saved of a run of Detectron2's trainer, and when."""

import logging
import os
from collections.abc import Callable
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from kd2.data.seeding import random_states, restore_random_states
from kd2.distill import WeightAverage, check_weights
from kd2.engine.detectron2 import compat
from kd2.runs.endings import pending, raise_pending
from kd2.runs.files import save_atomically
from kd2.runs.folder import BEST, keep, last_checkpoint

logger = logging.getLogger(__name__)


class RunCheckpointer(DetectionCheckpointer):
    """Saves the checkpoints of a run, intermediate and final alike.

    Args:
        student: under its own key names it is the entry ``model``.
        folder: ``OUTPUT_DIR``.
        content: gives the other entries, and with an average of the student that one as ``model``.
        most: ``SOLVER.KEEP_CHECKPOINTS``.
    """

    def __init__(self, student: nn.Module, folder: str, content: Callable[[], dict[str, Any]], most: int = 0):
        super().__init__(student, folder)
        self.content, self.most = content, most

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth; all but the best one are tagged as the last. An error leaves the older files alone.

        Raises:
            NonFiniteLoss: a weight of the student is not finite.
            OSError: the file could not be written.
        """
        if not self.save_to_disk:
            return
        content = self.content()
        check_weights(self.model, content["iteration"] + 1)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        content = {"model": self.model.state_dict(), **content, **kwargs}
        if os.path.basename(path) == BEST:
            save_atomically(content, path)
        else:
            keep(content, path, self.most)


class ProcessStates(HookBase):
    """Gathers for checkpoints what each process keeps for itself. Comes before the hooks that save.

    Args:
        cfg: tells at which iterations there are checkpoints.
        model: see ``compat.RunningNumbers``.

    Attributes:
        rng: the random states of each process; after a restore those of the checkpoint, until training begins.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module):
        self.periods = [cfg.SOLVER.CHECKPOINT_PERIOD, *([cfg.TEST.EVAL_PERIOD] if cfg.TEST.BEST else [])]
        self.numbers = compat.RunningNumbers(model)
        self.rng: list[dict[str, Any]] = []
        self._changed: list[dict[str, dict[str, float]]] = []

    def before_train(self) -> None:
        # With more processes than the run was saved with, the new ones go on with their own draws.
        rank = comm.get_rank()
        if rank < min(len(self.rng), len(self._changed)):
            restore_random_states(self.rng[rank])
            self.numbers.restore(self._changed[rank])

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(period and done % period == 0 for period in self.periods):
            self.gather()

    def gather(self) -> None:
        """Bring together the states of all processes, on the first one."""
        self.rng, self._changed = comm.gather(random_states()), comm.gather(self.numbers.changed())

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": self._changed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._changed = state["numbers"]


class StopAtSignal(HookBase):
    """Ends a training of one process at a signal that waits, with a checkpoint. Comes behind the hook that saves."""

    def after_step(self) -> None:
        trainer, name = self.trainer, f"model_{self.trainer.iter:07d}"
        if pending() and trainer.iter + 1 < trainer.max_iter:
            if os.path.join(trainer.cfg.OUTPUT_DIR, f"{name}.pth") != last_checkpoint(trainer.cfg.OUTPUT_DIR):
                trainer.process_states.gather()
                trainer.checkpointer.save(name)
            raise_pending()


class KeepBest(HookBase):
    """Saves the student after an evaluation on the way that is the best so far; ends the training by ``TEST.PATIENCE``.

    Comes behind the hook that evaluates.

    Args:
        period: iterations between evaluations; the last one is seen to when the training is over.
    """

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        trainer, done = self.trainer, self.trainer.iter + 1
        if not self.period or done % self.period or done == trainer.max_iter:
            return
        best, scores = trainer.best, flatten_results_dict(compat.last_results(trainer))
        best.check_names(scores)
        if comm.is_main_process() and best.beaten_by(scores):
            trainer.checkpointer.save(BEST.removesuffix(".pth"))
        if best.patience and any(comm.all_gather(best.exhausted)):
            logger.info("%s: the training ends after iteration %d", best.reason(), trainer.iter)
            trainer.end_early()


class Averaging(HookBase):
    """Takes the student of every step into its average. Comes before all hooks that save or evaluate."""

    def __init__(self, average: WeightAverage):
        self.average = average

    def after_step(self) -> None:
        self.average.update()


def saving_last(found: list[HookBase]) -> list[HookBase]:
    """The hooks with those that save behind the evaluation: a checkpoint then knows that of its step.

    A run that is stopped in between repeats the step and its evaluation, no other does, and ``TEST.PATIENCE`` counts.
    """
    late = [hook for hook in found if isinstance(hook, (PeriodicCheckpointer, StopAtSignal))]
    found = [hook for hook in found if hook not in late]
    place = next(i for i, hook in enumerate(found) if isinstance(hook, KeepBest)) + 1
    return [*found[:place], *late, *found[place:]]
