"""A trial of a timm config: both models and one batch."""

from contextlib import AbstractContextManager

from kd2.engine.lightning import dry_run as fit
from kd2.engine.lightning.classification.run import TASK, setup
from kd2.engine.dry_run import Trial


def trial(config_file: str, options: list[str]) -> AbstractContextManager[Trial]:
    """See ``kd2.engine.lightning.dry_run.trial``."""
    return fit.trial(setup(config_file, options), TASK)
