"""One training or evaluation of the quick start, on the usual torchvision road."""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence

from lightning import Callback

from kd2.config import config_path, read
from kd2.engine import ONE_PROCESS
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.run import experiment_of

_CONFIGS = "kd2://torchvision/quickstart/"


def data_options(files: Mapping[str, str], classes: int, seed: int) -> list[str]:
    """``KEY VALUE`` pairs that all trainings share.

    Args:
        files: ``train`` and ``val`` -> COCO file, with its images in the folder of the same name without ``.json``.
    """
    options = ["SEED", str(seed), "MODEL.RETINANET.NUM_CLASSES", str(classes)]
    for name, file in files.items():
        key, path = f"DATASETS.CUSTOM.quickstart_{name}", os.path.abspath(file)
        options += [f"{key}.JSON", path, f"{key}.IMAGES", image_folder(path)]
    return options


def image_folder(json_file: str) -> str:
    """Where the images of a COCO file of the quick start lie."""
    return os.path.splitext(json_file)[0]


def experiment(
    config: str, options: list[str], callbacks: Sequence[Callback] = (), **arguments: bool
) -> LightningExperiment:
    """What ``kd2.engine.flow.run`` runs.

    Args:
        config: name of a file in ``configs/torchvision/quickstart``.
        callbacks: for Lightning.
        arguments: ``overwrite`` or ``eval_only``, as on the command line of ``tools/train_net.py``.
    """
    path = config_path(_CONFIGS + config)
    made = experiment_of(read(path, options), path, Namespace(**(vars(ONE_PROCESS) | arguments)))
    made.callbacks = tuple(callbacks)
    return made
