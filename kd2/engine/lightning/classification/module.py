"""A classifier's distiller as a Lightning module: clean statistics, comparison with the teacher."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kd2.data.classification.batches import Batch
from kd2.data.classification.image_dataset import ImageDataset
from kd2.engine.lightning.classification.data import clean_batches
from kd2.engine.lightning.classification.evaluation import precise_statistics
from kd2.engine.lightning.module import DistillModule


class ClassificationModule(DistillModule):
    """What is evaluated and exported has clean batch norm statistics on request.

    Args:
        train: the training data, [] when nothing is trained.
        normalize: the student's input from pixels in [0, 1].
        teacher_logits: (teacher, batch) to (N, K). The teacher is held until every test set was seen once.
        others: see ``DistillModule``.
    """

    def __init__(
        self,
        *others: Any,
        train: list[ImageDataset],
        normalize: Callable[[Tensor], Tensor],
        teacher_logits: Callable[[nn.Module, Batch], Tensor],
    ):
        super().__init__(*others)
        self.train_data, self.normalize, self.teacher_logits = train, normalize, teacher_logits
        self.per_epoch = sum(map(len, train)) / (self.cfg.SOLVER.IMS_PER_BATCH * self.cfg.SOLVER.ACCUMULATE)
        # The distiller lets go of its teacher when all losses have stopped; the scores want it for longer.
        self._untaught = set(self.cfg.DATASETS.TEST) if self.cfg.TEST.TEACHER else set()
        self._teacher = self.distiller.teacher if self._untaught else None
        self._kept: dict[tuple[str, int], Tensor] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._log_epoch(self.global_step + 1)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = self._predict(batch)
        self.evaluator.process(batch, outputs._replace(teacher=self._of_teacher(batch, batch_idx)))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._untaught.discard(self.test.name)
        if not self._untaught:
            self._teacher = None
        if self.per_epoch:
            self._log_epoch(self.global_step)

    def exported(self) -> nn.Module:
        network, precise = self.student, self.cfg.TEST.PRECISE_BN
        if not precise.ENABLED or not self.train_data:
            return network
        copied, device = copy.deepcopy(network), next(network.parameters()).device
        loader = clean_batches(self.cfg, self.train_data)
        clean = (self.normalize(raw.to(device).images) for raw in loader)
        precise_statistics(copied, clean, min(precise.NUM_ITER, len(loader)))
        return copied

    def _log_epoch(self, steps: int) -> None:
        self.log("epoch", steps / self.per_epoch, rank_zero_only=True, batch_size=1)

    def _of_teacher(self, batch: Batch, number: int) -> Tensor | None:
        """The teacher's logits of a test batch, computed at its first visit; None without a teacher."""
        key = (self.test.name, number)
        if key not in self._kept:
            if self._teacher is None or batch.teacher is None:
                return None
            model = self._teacher.model.eval().to(batch.images.device)
            self._kept[key] = self.teacher_logits(model, batch).cpu()
        return self._kept[key].to(batch.images.device)
