"""A classifier's distiller as a Lightning module: timm's optimizers, moving average, clean evaluation."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from kd2.engine.lightning.module import FitModule, share_statistics
from kd2.engine.lightning.solver import parameter_groups
from kd2.engine.lightning.classification.data import Batch, clean_batches
from kd2.engine.lightning.classification.evaluation import precise_statistics
from kd2.engine.lightning.classification.models import Normalize
from kd2.engine.lightning.classification.solver import build_lr_scheduler, build_optimizer
from kd2.distill import Distiller
from kd2.data.classification.image_dataset import ImageDataset


class ClassifierModule(FitModule):
    """What is evaluated and exported is the shown network: the student or its moving average, with clean statistics.

    Args:
        train: the training data, [] when nothing is trained.
    """

    def __init__(self, distiller: Distiller, cfg: CfgNode, evaluator: Callable[[], Any], train: list[ImageDataset]):
        super().__init__(distiller, cfg, evaluator)
        self.normalize, self.train_data = Normalize(cfg), train
        average = cfg.MODEL.EMA
        self.ema = ModelEmaV3(distiller.student, average.DECAY, use_warmup=average.WARMUP) if average.ENABLED else None
        if self.ema is not None:
            self.ema.requires_grad_(False)
        self.per_epoch = sum(map(len, train)) / cfg.SOLVER.IMS_PER_BATCH
        self._shown: nn.Module | None = None
        self._remembered: dict[tuple[str, int], Tensor] = {}

    def configure_optimizers(self) -> dict:
        groups = parameter_groups([self.distiller.student, self.distiller.losses], self.cfg)
        optimizer = build_optimizer(self.cfg, groups)
        scheduler = build_lr_scheduler(self.cfg, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._log_epoch(self.global_step + 1)
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.distiller.student, step + 1)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        if self.ema is not None:
            share_statistics(self.ema.module)
        self._shown = self._network()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with torch.autocast(batch.images.device.type, enabled=False):
            logits = self._shown(self.normalize(batch.images))
            self.evaluator(logits, batch.labels, self._teacher_logits(batch, batch_idx))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._shown = None
        if self.per_epoch:
            self._log_epoch(self.global_step)

    def final_checkpoint(self) -> dict[str, Any]:
        """The shown network under its own key names, the adapters apart, the class names, how long it was trained."""
        return super().final_checkpoint() | {
            "model": self._network().state_dict(), "classes": list(self.cfg.MODEL.CLASSES),
        }

    def _log_epoch(self, steps: int) -> None:
        self.log("epoch", steps / self.per_epoch, rank_zero_only=True, batch_size=1)

    def _network(self) -> nn.Module:
        """The network to show, in eval mode; a copy wherever it differs from the one in training."""
        network = self.distiller.student if self.ema is None else self.ema.module
        precise = self.cfg.TEST.PRECISE_BN
        if not precise.ENABLED or not self.train_data:
            return network.eval()
        copied, device = copy.deepcopy(network), next(network.parameters()).device
        loader = clean_batches(self.cfg, self.train_data)
        clean = (self.normalize(raw.to(device).images) for raw in loader)
        precise_statistics(copied, clean, min(precise.NUM_ITER, len(loader)))
        return copied

    def _teacher_logits(self, batch: Batch, number: int) -> Tensor | None:
        """The teacher's logits of a test batch, computed at its first visit; None without a teacher."""
        key = (self.evaluator.name, number)
        if key not in self._remembered:
            if self.distiller.teacher is None or batch.teacher is None:
                return None
            self.distiller.teacher.model.eval()
            self._remembered[key] = self.distiller.teacher_logits(batch).cpu()
        return self._remembered[key].to(batch.images.device)
