"""A trial of a timm config: both models and one batch."""

from contextlib import AbstractContextManager

from kd2.bridges.fit import trial as fit
from kd2.bridges.tm.run import TASK, setup
from kd2.bridges.trial import Trial


def trial(config_file: str, options: list[str]) -> AbstractContextManager[Trial]:
    """See ``kd2.bridges.fit.trial.trial``."""
    return fit.trial(setup(config_file, options), TASK)
