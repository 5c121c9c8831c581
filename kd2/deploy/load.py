"""From the folder of a run, or an exported file, to what predicts."""

import importlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from kd2 import engine
from kd2.config import read
from kd2.deploy.formats import open_exported
from kd2.deploy.predictor import Predictor, Predicts
from kd2.distill import ConfigError
from kd2.engine.flow import trained_student
from kd2.engine.permission import permitted
from kd2.engine.weights.checkpoint import read_checkpoint, saved_classes
from kd2.runs.folder import CONFIG, began, newest_student
from kd2.runs.resume import ABSENT, REFUSED, differences, fate_of

logger = logging.getLogger(__name__)

# Keys that are decided elsewhere.
_DECIDED = {
    "MODEL.WEIGHTS": "--weights names the checkpoint",
    "MODEL.DEVICE": "a file is written and compared with PyTorch on the CPU; where it runs is its runtime's choice",
}


def load(path: str, weights: str = "", allow_code: bool = False) -> Predicts:
    """What predicts, on the CPU: ``kd2.load("output/run").predict(["a.jpg", "b.jpg"])``; ``.classes`` has the names.

    Of a run it is a ``torch.nn.Module`` and can be moved to a device; its ``student`` is the framework's plain module.

    Args:
        path: the folder of a run, finished or not, or a file that ``kd2-export`` wrote.
        weights: another checkpoint of the run; empty: its final one, or the last one of a run that is under way.
        allow_code: whether the run's config may be a LazyConfig file, which is Python and runs: for a file you trust.

    Raises:
        ConfigError: neither a run nor an exported file; code that is not allowed; a run without a checkpoint; a
            student that is not known here; a package is missing.
    """
    if os.path.isfile(path):
        if weights:
            raise ConfigError(f"{path} is an exported file, which holds its weights: {weights} has no place there")
        return open_exported(path)
    with permitted(code=allow_code):
        experiment, weights = run_of(path, weights)
        return predictor_of(experiment, weights)


def run_of(folder: str, weights: str = "", options: Sequence[str] = ()) -> tuple[Any, str]:
    """The experiment of a run for its student, and the checkpoint that fills it.

    Args:
        weights: see ``load``.
        options: KEY VALUE pairs over the run's config.

    Raises:
        ConfigError: see ``load``.
    """
    config = os.path.join(folder, CONFIG)
    if not os.path.exists(folder):
        raise ConfigError(f"there is no {folder!r}, expected the folder of a run or a file that kd2-export wrote")
    if not began(folder):
        raise ConfigError(f"{folder!r} is no folder of a run: it has no {CONFIG} that a run of kd2 wrote")
    weights = weights or newest_student(folder) or ""
    if not weights:
        raise ConfigError(f"{folder!r} is a run without a checkpoint: it has not saved one yet")
    for key, reason in _DECIDED.items():
        if key in options[::2]:
            raise ConfigError(f"{key} cannot be given here: {reason}")
    read(config, options)  # what is wrong with the pairs is told of them alone
    experiment = engine.for_evaluation(config, [*options, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    experiment.leave_unfilled()
    experiment.classes = saved_classes(weights, "the run's checkpoint")
    _tell_changes(config, weights, experiment.cfg)
    return experiment, weights


def _tell_changes(config: str, weights: str, cfg: CfgNode) -> None:
    """Warn where a run's config says of its student what it did not say when the checkpoint was written."""
    trained = read_checkpoint(weights, "the run's checkpoint").get("kd2", {}).get("config", "{}")
    for key, was, now in differences(yaml.safe_load(trained), read(config)):
        if key.startswith(("MODEL.", "INPUT.")) and fate_of(key, cfg) == REFUSED and ABSENT not in (was, now):
            logger.warning("%s: %s is %s, but %s was trained with %s", config, key, now, weights, was)


def predictor_of(experiment: Any, weights: str) -> Predictor:
    """The student of ``run_of`` with its weights."""
    student = trained_student(experiment, weights, "the run's checkpoint")
    return importlib.import_module(f"kd2.deploy.{experiment.cfg.FRAMEWORK}").predictor(experiment, student)
