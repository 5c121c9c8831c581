"""A trial of a config that Lightning would train: both models and one batch."""

import contextlib
from collections.abc import Iterator

import torch
from fvcore.common.config import CfgNode

from kd2.engine.lightning.run import Task, prepared
from kd2.engine.lightning.trainer import uses_gpu
from kd2.engine.dry_run import Trial
from kd2.distill import ConfigError


@contextlib.contextmanager
def trial(cfg: CfgNode, task: Task) -> Iterator[Trial]:
    """Build what training would build, and fetch its first batch. Raises like training would."""
    data = task.load(cfg, "TRAIN")
    task.check(cfg, data)
    task.settle(cfg, data, [])
    distiller = prepared(cfg, task)
    if distiller.teacher is None:
        raise ConfigError("KD.LOSSES has no loss with a weight other than 0: there is no distillation to look at")
    device = torch.device("cuda" if uses_gpu(cfg) else "cpu")
    loaded = next(iter(task.training_batches(cfg, data, start=0, rank=0, ranks=1)))
    yield Trial(distiller.to(device), lambda: loaded.to(device), distiller.facts)
