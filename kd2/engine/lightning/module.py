"""A distiller as a Lightning module."""

from collections.abc import Callable
from typing import Any

import lightning
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.engine.checkpoint import Match, load_state
from kd2.engine.lightning.solver import build_lr_scheduler, build_optimizer, parameter_groups
from kd2.distill import ConfigError, Distiller, NaNMonitor, check_weights, clip_overrides
from kd2.data.seeding import random_states, restore_random_states

# Steps between looks at the losses on an accelerator; a look waits for it.
CHECK_EVERY = 20


class FitModule(lightning.LightningModule):
    """Trains the student and the losses of a distiller with one optimizer.

    Args:
        distiller: its losses may be empty.
        cfg: SOLVER and SEED are read.
        evaluator: called per batch with (student, batch), and asked for ``result()`` at the end: a dict of numbers.
    """

    def __init__(self, distiller: Distiller, cfg: CfgNode, evaluator: Callable[[], Any]):
        super().__init__()
        self.distiller = distiller
        self.cfg = cfg
        self.new_evaluator = evaluator
        self.monitor = NaNMonitor()
        self.results: dict[str, float] = {}
        self._states: list[dict] | None = None

    def configure_optimizers(self) -> dict:
        groups = parameter_groups([self.distiller.student, self.distiller.losses], self.cfg)
        optimizer = build_optimizer(self.cfg, groups)
        scheduler = build_lr_scheduler(self.cfg, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.distiller.iteration = self.global_step
        losses = self.distiller(batch)
        self.monitor.see(losses, self.global_step)
        if self.device.type == "cpu" or self.global_step % CHECK_EVERY == 0:
            self.monitor.check()
        total = sum(losses.values())
        scalars = {name: loss.detach() for name, loss in losses.items()}
        self.log_dict(scalars | self.distiller.stats, batch_size=len(batch.images))
        self.log("total_loss", total.detach(), prog_bar=True, batch_size=len(batch.images))
        return total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the run's limit what the run's solver trains, and each part with a solver of its own by its own."""
        common = clip_overrides(optimizer.param_groups)
        if gradient_clip_val:
            clips = {"value": torch.nn.utils.clip_grad_value_, "norm": torch.nn.utils.clip_grad_norm_}
            clips[gradient_clip_algorithm](common, gradient_clip_val)

    def on_train_start(self) -> None:
        if self._states is not None:
            # More ranks than the run was started with: the new ones go on with their own draws.
            if self.global_rank < len(self._states):
                restore_random_states(self._states[self.global_rank])
            self._states = None

    def on_validation_epoch_start(self) -> None:
        self.evaluator = self.new_evaluator()
        share_statistics(self.distiller.student)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluator(self.distiller.student, batch)

    def on_validation_epoch_end(self) -> None:
        self.results = self.evaluator.result()
        self.log_dict(self.results, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.monitor.check()
        check_weights(self.distiller, self.global_step)
        states = [random_states()]
        if self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(states, random_states())
        checkpoint["kd2"] = {"seed": self.cfg.SEED, "random": states}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        match = Match(self, checkpoint["state_dict"])
        if match.share < 1 or match.unexpected:
            raise ConfigError(f"--resume: the checkpoint does not fit this model and these losses: {match.text()}")
        self._states = checkpoint["kd2"]["random"]

    def final_checkpoint(self) -> dict[str, Any]:
        """The student under its own key names, the adapters apart, and how long it was trained."""
        check_weights(self.distiller, self.global_step)
        return {
            "model": self.distiller.student.state_dict(),
            "adapters": self.distiller.losses.state_dict(),
            "iteration": self.global_step - 1,
        }


def share_statistics(model: nn.Module) -> None:
    """Give every process the norm layers' statistics of process 0, the exported ones, so that one network is scored."""
    if torch.distributed.is_initialized():
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._NormBase):
                for statistic in norm.buffers():
                    torch.distributed.broadcast(statistic, 0)


def load_student(student: nn.Module, state: dict[str, Tensor], source: str, partial: bool) -> Match:
    """Initial or final weights of the student from ``MODEL.WEIGHTS``; raises ConfigError when they do not fit."""
    if any(not isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"MODEL.WEIGHTS: {source} is no state dict of a model")
    return load_state(student, state, source, "MODEL.WEIGHTS", partial)
