"""A classifier's distiller as a Lightning module: moving average, clean statistics, comparison with the teacher."""

import copy
from typing import TYPE_CHECKING, Any

from timm.utils import ModelEmaV3
from torch import Tensor, nn

from kd2.data.classification.batches import Batch
from kd2.data.classification.image_dataset import ImageDataset
from kd2.distill import Distiller
from kd2.engine.lightning.classification.data import clean_batches
from kd2.engine.lightning.classification.evaluation import precise_statistics
from kd2.engine.lightning.module import DistillModule, share_statistics

if TYPE_CHECKING:
    from kd2.engine.lightning.classification.experiment import ClassificationExperiment


class ClassificationModule(DistillModule):
    """What is evaluated and exported is the student or its moving average, with clean batch norm statistics on request.

    Args:
        train: the training data, [] when nothing is trained.
    """

    experiment: "ClassificationExperiment"

    def __init__(
        self,
        distiller: Distiller,
        experiment: "ClassificationExperiment",
        classes: dict[str, list[str]],
        train: list[ImageDataset],
    ):
        super().__init__(distiller, experiment, classes)
        self.train_data = train
        average = self.cfg.MODEL.EMA
        self.ema = ModelEmaV3(distiller.student, average.DECAY, use_warmup=average.WARMUP) if average.ENABLED else None
        if self.ema is not None:
            self.ema.requires_grad_(False)
        self.per_epoch = sum(map(len, train)) / self.cfg.SOLVER.IMS_PER_BATCH
        self._evaluated: nn.Module | None = None
        self._teacher_logits: dict[tuple[str, int], Tensor] = {}

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
        self._evaluated = self._network().eval()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = self.experiment.predict(self._evaluated, batch)
        self.evaluator.process(batch, outputs._replace(teacher=self._of_teacher(batch, batch_idx)))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._evaluated = None
        if self.per_epoch:
            self._log_epoch(self.global_step)

    def exported(self) -> dict[str, Tensor] | None:
        network = self._network()
        return None if network is self.distiller.student else network.state_dict()

    def _log_epoch(self, steps: int) -> None:
        self.log("epoch", steps / self.per_epoch, rank_zero_only=True, batch_size=1)

    def _network(self) -> nn.Module:
        """The network to evaluate and export; a copy wherever it differs from those in training."""
        network = self.distiller.student if self.ema is None else self.ema.module
        precise = self.cfg.TEST.PRECISE_BN
        if not precise.ENABLED or not self.train_data:
            return network
        copied, device = copy.deepcopy(network), next(network.parameters()).device
        loader = clean_batches(self.cfg, self.train_data)
        clean = (self.experiment.normalize(raw.to(device).images) for raw in loader)
        precise_statistics(copied, clean, min(precise.NUM_ITER, len(loader)))
        return copied

    def _of_teacher(self, batch: Batch, number: int) -> Tensor | None:
        """The teacher's logits of a test batch, computed at its first visit; None without a teacher."""
        key = (self.test.name, number)
        if key not in self._teacher_logits:
            teacher = self.distiller.teacher
            if teacher is None or batch.teacher is None:
                return None
            teacher.model.eval()
            self._teacher_logits[key] = self.experiment.teacher_logits(teacher.model, batch).cpu()
        return self._teacher_logits[key].to(batch.images.device)
