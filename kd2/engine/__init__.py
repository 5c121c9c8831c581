"""Who trains: one folder a framework, and what they share in the files of this level.

``run`` and ``dry_run`` are what the commands call; the framework of the config is imported then and not before.
"""

import contextlib
import importlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from kd2.config import config_path, framework_of, read
from kd2.distill import ConfigError
from kd2.engine.permission import permitted

_ROADS = {
    "detectron2": (
        "kd2.engine.detectron2.run",
        "see https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
    ),
    "torchvision": ("kd2.engine.lightning.run", "pip install 'kd2[torchvision]'"),
    "timm": ("kd2.engine.lightning.run", "pip install 'kd2[timm]'"),
}
# What a command hands over that asks for nothing special.
ONE_PROCESS = Namespace(
    num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto", resume=False, overwrite=False, eval_only=False,
    imports=[], allow_pickle=False, allow_code=False,
)  # fmt: skip
EVALUATION = Namespace(**vars(ONE_PROCESS) | {"eval_only": True})


def run(config_file: str, options: list[str], args: Namespace = ONE_PROCESS) -> dict[str, float]:
    """Train, or with ``args.eval_only`` evaluate, by a config file; returns the scores of the last evaluation.

    Args:
        config_file: a path, or kd2://NAME for a config that the package brings.
        options: KEY VALUE pairs over the file.
        args: num_gpus, num_machines, machine_rank, dist_url, resume, eval_only as in Detectron2's scripts; overwrite: a
            former run in OUTPUT_DIR is removed; imports: modules with losses of the user's own; allow_pickle: whether
            files that the config names may run code; allow_code: whether configs may be Python.

    Raises:
        ConfigError, DataError, NonFiniteLoss: what is wrong with the config, the data or a loss.
        kd2.runs.endings.Fault, Interrupted: see ``kd2.engine.flow.run``.
    """
    path = config_path(config_file)
    loaded = read(path, options)
    with permitted(pickles=args.allow_pickle, code=args.allow_code):
        return _road(loaded, path).run(loaded, path, args)


@contextlib.contextmanager
def dry_run(
    config_file: str, options: list[str], allow_pickle: bool = False, allow_code: bool = False
) -> Iterator[Any]:
    """Everything of a training up to its first step, as a ``DryRun``. Raises like training would."""
    path = config_path(config_file)
    loaded = read(path, options)
    with permitted(pickles=allow_pickle, code=allow_code), _road(loaded, path).dry_run(loaded, path) as found:
        yield found


def data_sets(config_file: str, options: list[str], allow_code: bool = False) -> dict[str, Callable[[], Any]]:
    """Name of every data set of a config -> what reads it as ``Records``, ``SemanticRecords`` or ``ImageDataset``.

    No model is built. What reads raises ConfigError, DataError or OSError like training would.
    """
    path = config_path(config_file)
    loaded = read(path, options)
    with permitted(code=allow_code):
        return _road(loaded, path).data_sets(loaded, path)


def experiment_of(config_file: str, options: list[str]) -> Any:
    """The ``Experiment`` of a config, to look at its models and data; raises like ``for_evaluation``."""
    path = config_path(config_file)
    loaded = read(path, options)
    return _road(loaded, path).experiment(loaded, path, ONE_PROCESS)


def for_evaluation(config_file: str, options: list[str]) -> Any:
    """The ``Experiment`` of a run's config for its student, its test sets and their scores; nothing trains or distills.

    Raises:
        ConfigError: what is wrong with the config; a package of its framework is missing.
    """
    path = config_path(config_file)
    loaded = read(path, options)
    loaded.pop("KD", None)
    return _road(loaded, path).experiment(loaded, path, EVALUATION)


def _road(loaded: dict[str, Any], config_file: str) -> ModuleType:
    framework = framework_of(loaded, config_file)
    module, install = _ROADS[framework]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kd2"):
            raise
        raise ConfigError(f"FRAMEWORK: {framework} needs the package {error.name!r}: {install}") from None
