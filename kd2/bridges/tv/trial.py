"""A trial of a torchvision config: both models and one batch."""

from contextlib import AbstractContextManager

from kd2.bridges.fit import trial as fit
from kd2.bridges.trial import Trial
from kd2.bridges.tv.run import setup, task_of


def trial(config_file: str, options: list[str]) -> AbstractContextManager[Trial]:
    """See ``kd2.bridges.fit.trial.trial``."""
    cfg = setup(config_file, options)
    return fit.trial(cfg, task_of(cfg))
