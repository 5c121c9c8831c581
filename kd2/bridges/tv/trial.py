"""A trial of a torchvision config: both models and one batch."""

import contextlib
from collections.abc import Iterator

import torch

from kd2.bridges.fit.trainer import uses_gpu
from kd2.bridges.trial import Trial
from kd2.bridges.tv.data import check_classes, load_all, training_batches
from kd2.bridges.tv.models import num_classes
from kd2.bridges.tv.run import prepared, setup
from kd2.core import ConfigError


@contextlib.contextmanager
def trial(config_file: str, options: list[str]) -> Iterator[Trial]:
    """Build what training would build, and fetch its first batch. Raises like training would."""
    cfg = setup(config_file, options)
    data = load_all(cfg, "TRAIN")
    check_classes(data, *num_classes(cfg))
    distiller = prepared(cfg)
    if distiller.teacher is None:
        raise ConfigError("KD.TERMS has no term with a weight other than 0: there is no distillation to look at")
    device = torch.device("cuda" if uses_gpu(cfg) else "cpu")
    batch = next(iter(training_batches(cfg, data, start=0, rank=0, ranks=1))).to(device)
    yield Trial(distiller.to(device), batch, distiller.facts)
