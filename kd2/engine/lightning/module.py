"""A distiller as a Lightning module, and its checkpoints in kd2's one schema."""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import lightning
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.data.seeding import random_states, restore_random_states
from kd2.distill import ConfigError, Distiller, NaNMonitor, WeightAverage, average_of, check_weights
from kd2.engine.gather import gathered
from kd2.engine.lightning.solver import build_lr_scheduler, parameter_groups
from kd2.engine.optimizer import build_optimizer, clip_gradients
from kd2.engine.weights.checkpoint import read_checkpoint, run_entry
from kd2.engine.weights.matching import Match, load_state
from kd2.engine.weights.schema import check_run
from kd2.runs.best import Best
from kd2.runs.resume import apply_rates, rates_of

# Steps between checks of the losses on an accelerator; a check waits for it.
CHECK_EVERY = 20
_STUDENT, _ADAPTERS, _SHARES = _PARTS = "distiller.student.", "distiller.losses.", "distiller.shares."


class Evaluator(Protocol):
    """The contract of every evaluator: batches with the student's output in, scores out."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in a batch and what ``Experiment.predict`` made of it."""

    def names(self) -> list[str]:
        """Names of the scores, known behind the first batch."""

    def evaluate(self) -> dict[str, float]:
        """Scores by name over the shares of all processes."""


class DistillModule(lightning.LightningModule):
    """Trains the student and the adapters of a distiller with one optimizer.

    Args:
        distiller: its losses may be empty.
        classes: names by kind, for the checkpoints.
        evaluator: test set to a new evaluator.
        predict: see ``Experiment.predict``.

    Attributes:
        test: the data set that a validation scores.
        scores: of the last validation.
        best: of the validations so far.
        average: of the student in training, by ``MODEL.EMA``.
    """

    best = Best("")

    def __init__(
        self,
        distiller: Distiller,
        cfg: CfgNode,
        classes: dict[str, list[str]],
        evaluator: Callable[[Any], Evaluator],
        predict: Callable[[nn.Module, Any], Any],
    ):
        super().__init__()
        self.distiller, self.cfg, self.classes = distiller, cfg, classes
        self.new_evaluator, self.predict = evaluator, predict
        self.monitor = NaNMonitor()
        self.test: Any = None
        self.scores: dict[str, float] = {}
        self.average: WeightAverage | None = None
        self._states: list[dict] | None = None
        self._sums: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        if stage == "fit":  # before a checkpoint is restored, and before the student moves to its device
            self.average = average_of(self.distiller.student, self.cfg.MODEL.EMA)

    def on_fit_start(self) -> None:
        if self.average is not None:
            self.average.network.to(self.device)

    def configure_optimizers(self) -> dict:
        groups = parameter_groups(self.distiller.student, self.cfg)
        groups += self.distiller.adapter_groups(functools.partial(parameter_groups, cfg=self.cfg))
        optimizer = build_optimizer(self.cfg.SOLVER, groups)
        scheduler = build_lr_scheduler(self.cfg, optimizer)
        self._rates = rates_of(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.distiller.iteration = self.global_step
        self.distiller.batch = batch_idx % self.cfg.SOLVER.ACCUMULATE
        losses = self.distiller(batch)
        self.monitor.see(losses, self.global_step)
        if self.device.type == "cpu" or self.global_step % CHECK_EVERY == 0:
            self.monitor.check()
        total = sum(losses.values())
        means = self._means(losses)
        self.log_dict(means | self.distiller.stats, batch_size=len(batch.images))
        self.log("total_loss", sum(means.values()), prog_bar=True, batch_size=len(batch.images))
        return total

    def _means(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means of the losses over the batches of the optimizer step so far, detached; this one is the last of them."""
        before = self._sums if self.distiller.batch else {}
        self._sums = {name: before.get(name, 0.0) + loss.detach() for name, loss in losses.items()}
        return {name: x / (self.distiller.batch + 1) for name, x in self._sums.items()}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_gradients(optimizer.param_groups, self.cfg.SOLVER.CLIP_GRADIENTS)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()

    def on_train_start(self) -> None:
        if self._states is not None:
            # More processes than the run was started with: the new ones go on with their own draws.
            if self.global_rank < len(self._states):
                restore_random_states(self._states[self.global_rank])
            self._states = None
            apply_rates(self.optimizers().optimizer, self.lr_schedulers(), self._rates)

    def on_validation_epoch_start(self) -> None:
        self.evaluator = self.new_evaluator(self.test)
        share_statistics(self.student)
        # No attribute holds the network, which would become a part of this module.
        self._predict = functools.partial(self.predict, self.exported().eval())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluator.process(batch, self._predict(batch))

    def on_validation_epoch_end(self) -> None:
        del self._predict
        self.scores = self.evaluator.evaluate()
        self.log_dict(self.scores, rank_zero_only=True)

    @torch.no_grad()
    def try_out(self, test: Any, batch: Any) -> list[str]:
        """Validate a batch of a test set with the student in eval mode; the names of the results of the whole set."""
        self.test, self.evaluator = test, self.new_evaluator(test)
        self._predict = functools.partial(self.predict, self.student)
        self.validation_step(batch, 0)
        del self._predict
        self.scores = dict.fromkeys(self.evaluator.names(), math.nan)
        return list(self.named_scores())

    def named_scores(self) -> dict[str, float]:
        """``scores`` by the names of the run's results: several test sets are told apart."""
        several = len(self.cfg.DATASETS.TEST) > 1
        return {f"{self.test.name}/{name}" if several else name: x for name, x in self.scores.items()}

    @property
    def student(self) -> nn.Module:
        """The student as it trains, or its average."""
        return self.distiller.student if self.average is None else self.average.network

    def exported(self) -> nn.Module:
        """The network that is evaluated and exported; a copy where it is neither the student nor its average."""
        return self.student

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Turn Lightning's checkpoint into kd2's schema, in place."""
        self.monitor.check()
        check_weights(self.distiller, self.global_step)
        state, exported = checkpoint.pop("state_dict"), self.exported()
        raw, adapters, shares, rest = _parts(state)
        entry = run_entry(self.cfg, self.classes, gathered(random_states()), self.best) | {"shares": shares}
        if exported is not self.distiller.student:
            entry["raw_model"] = raw
        (optimizer,), (scheduler,) = checkpoint.pop("optimizer_states"), checkpoint.pop("lr_schedulers")
        trainer = checkpoint | {"module": rest}
        checkpoint.clear()
        checkpoint |= {
            "model": dict(exported.state_dict()),
            "adapters": adapters,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "iteration": self.global_step - 1,
            "kd2": entry,
            "trainer": trainer,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        match = Match(self, checkpoint["state_dict"])
        if match.matched < 1 or match.unexpected:
            raise ConfigError(f"--resume: the checkpoint does not fit this model and these losses: {match.text()}")
        self._states = checkpoint["kd2"]["rng"]
        if self.average is not None:
            load_state(self.average.network, checkpoint["model"], "model of the checkpoint", "--resume", partial=False)
            self.average.resume(checkpoint["global_step"])


def read_resumable(path: str) -> dict[str, Any]:
    """The content of a checkpoint from which Lightning can go on.

    Raises:
        ConfigError: an entry is missing, or another framework wrote it; see ``read_checkpoint``.
    """
    content, where = read_checkpoint(path, "--resume"), f"--resume: {path}"
    check_run(content, where)
    if "loops" not in content["trainer"]:
        raise ConfigError(f"{where} is not a checkpoint of a run that Lightning trained: another trainer wrote it")
    return content


def lightning_form(content: dict[str, Any]) -> dict[str, Any]:
    """The content of ``read_resumable`` as Lightning reads it."""
    trainer = dict(content["trainer"])
    state = {f"{_STUDENT}{name}": x for name, x in content["kd2"].get("raw_model", content["model"]).items()}
    state |= {f"{_ADAPTERS}{name}": x for name, x in content["adapters"].items()}
    state |= {f"{_SHARES}{name}": x for name, x in content["kd2"]["shares"].items()} | trainer.pop("module")
    optimizer, scheduler = [content["optimizer"]], [content["scheduler"]]
    return trainer | {
        "state_dict": state,
        "optimizer_states": optimizer,
        "lr_schedulers": scheduler,
        "kd2": content["kd2"],
        "model": content["model"],
    }


def share_statistics(model: nn.Module) -> None:
    """Give every process the norm layers' statistics of process 0, the exported ones, so that one network is scored."""
    if torch.distributed.is_initialized():
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._NormBase):
                for statistic in norm.buffers():
                    torch.distributed.broadcast(statistic, 0)


def _parts(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """The tensors of student, adapters and shares, under their own names, and the rest of a module's state dict."""
    parts = [{n.removeprefix(p): x for n, x in state.items() if n.startswith(p)} for p in _PARTS]
    return *parts, {n: x for n, x in state.items() if not n.startswith(_PARTS)}
