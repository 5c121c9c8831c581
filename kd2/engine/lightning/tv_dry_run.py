"""A trial of a torchvision config: both models and one batch."""

from contextlib import AbstractContextManager

from kd2.engine.lightning import dry_run as fit
from kd2.engine.dry_run import Trial
from kd2.engine.lightning.tv_run import setup, task_of


def trial(config_file: str, options: list[str]) -> AbstractContextManager[Trial]:
    """See ``kd2.engine.lightning.dry_run.trial``."""
    cfg = setup(config_file, options)
    return fit.trial(cfg, task_of(cfg))
