"""Training and evaluation on the torchvision path, as tools/train_net.py asks for it."""

import argparse

from fvcore.common.config import CfgNode

from kd2.engine.lightning import run as fit
from kd2.engine.lightning import detection, segmentation
from kd2.engine.lightning.detection.models import ARCHITECTURES as DETECTORS
from kd2.engine.lightning.segmentation.models import ARCHITECTURES as SEGMENTERS
from kd2.config import torchvision_config
from kd2.distill import ConfigError, Distiller, nearest


def task_of(cfg: CfgNode) -> fit.Task:
    """What ``MODEL.META_ARCHITECTURE`` is for; raises ConfigError when it is unknown."""
    name = cfg.MODEL.META_ARCHITECTURE
    for architectures, task in ((DETECTORS, detection.TASK), (SEGMENTERS, segmentation.TASK)):
        if name in architectures:
            return task
    raise ConfigError(f"MODEL.META_ARCHITECTURE is {name!r}; {nearest(name, [*DETECTORS, *SEGMENTERS])}")


def setup(config_file: str, options: list[str], resume: bool = False) -> CfgNode:
    """See ``kd2.engine.lightning.run.setup``."""
    return fit.setup(torchvision_config(), config_file, options, resume)


def run(config_file: str, options: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Train (or with ``args.eval_only`` evaluate) by a config file; returns the metrics of the last evaluation."""
    cfg = setup(config_file, options, args.resume)
    return fit.run(cfg, task_of(cfg), args)


def train(cfg: CfgNode, args: argparse.Namespace, callbacks: list = ()) -> dict[str, float]:
    """See ``kd2.engine.lightning.run.train``."""
    return fit.train(cfg, task_of(cfg), args, callbacks)


def prepared(cfg: CfgNode, resuming: bool = False) -> Distiller:
    """See ``kd2.engine.lightning.run.prepared``."""
    return fit.prepared(cfg, task_of(cfg), resuming)
