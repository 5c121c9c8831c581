"""Detectron2's training loops with an error that names the loss that broke, and the losses' own numbers in the log."""

from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor

from kd2.distill import NaNMonitor, NonFiniteLoss


class _Watched:
    """Names the loss in Detectron2's stop at a loss that is not finite; logs the distiller's stats too."""

    def _write_metrics(
        self, loss_dict: dict[str, Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        monitor = NaNMonitor()
        monitor.see(loss_dict, self.iter)
        try:
            super()._write_metrics(loss_dict, data_time, prefix, iter)
        except FloatingPointError:
            monitor.check()
            raise NonFiniteLoss(
                f"a loss of another process became NaN or infinite at iteration {self.iter}; "
                "the last checkpoint is kept"
            ) from None
        stats = getattr(self.model, "module", self.model).stats
        get_event_storage().put_scalars(cur_iter=self.iter, **stats)


class WatchedTrainer(_Watched, SimpleTrainer):
    """Detectron2's SimpleTrainer; raises NonFiniteLoss before a broken step changes any weight."""


class WatchedAMPTrainer(_Watched, AMPTrainer):
    """Detectron2's AMPTrainer; raises NonFiniteLoss before a broken step changes any weight."""
