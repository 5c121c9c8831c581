"""The roads that Lightning trains: torchvision and timm."""

import os
import secrets
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import lightning
from fvcore.common.config import CfgNode

from kd2.config import assemble, defaults_of
from kd2.config.schedule import scaled_config
from kd2.distill import ConfigError, nearest
from kd2.engine import ONE_PROCESS, flow
from kd2.engine.experiment import DataSet, DryRun, Scores
from kd2.engine.gather import gathered
from kd2.engine.lightning.classification.experiment import ClassificationExperiment
from kd2.engine.lightning.detection.experiment import DetectionExperiment
from kd2.engine.lightning.detection.models import ARCHITECTURES as DETECTORS
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.segmentation.experiment import SegmentationExperiment
from kd2.engine.lightning.segmentation.models import ARCHITECTURES as SEGMENTERS
from kd2.engine.lightning.trainer import world_size
from kd2.engine.weights.checkpoint import saved_run
from kd2.runs.folder import check_writable, resumable


def run(loaded: dict[str, Any], config_file: str, args: Namespace) -> Scores:
    """Train, or with ``args.eval_only`` evaluate; returns the scores of the last evaluation."""
    return flow.run(experiment_of(loaded, config_file, args))


def dry_run(loaded: dict[str, Any], config_file: str) -> AbstractContextManager[DryRun]:
    """See ``kd2.engine.flow.dry_run``."""
    return flow.dry_run(experiment_of(loaded, config_file, ONE_PROCESS))


def data_sets(loaded: dict[str, Any], config_file: str) -> dict[str, Callable[[], DataSet]]:
    """See ``kd2.engine.flow.data_sets``."""
    return flow.data_sets(experiment(loaded, config_file, ONE_PROCESS))


def experiment(loaded: dict[str, Any], config_file: str, args: Namespace) -> LightningExperiment:
    """The experiment of a config that was read, without a drawn seed and a folder."""
    return experiment_for(assemble(defaults_of(loaded["FRAMEWORK"]), loaded, config_file), args)


def experiment_of(loaded: dict[str, Any], config_file: str, args: Namespace) -> LightningExperiment:
    """The experiment of a config that was read; the output folder exists and a seed is drawn when ``SEED`` < 0."""
    cfg = assemble(defaults_of(loaded["FRAMEWORK"]), loaded, config_file)
    check_writable(cfg.OUTPUT_DIR)
    cfg = scaled_config(cfg, world_size(cfg, args))
    experiment = experiment_for(cfg, args)
    if args.resume and cfg.SEED < 0:
        cfg.SEED = saved_run(resumable(cfg.OUTPUT_DIR))[0]["seed"]
    cfg.SEED = lightning.seed_everything(cfg.SEED if cfg.SEED >= 0 else _drawn_seed())
    return experiment


def _drawn_seed() -> int:
    """One for all processes: Lightning hands it to those that it starts, those of a launcher have met."""
    handed = os.environ.get("PL_GLOBAL_SEED") if "LOCAL_RANK" in os.environ else None
    return gathered(int(handed or secrets.randbelow(1 << 31)))[0]


def experiment_for(cfg: CfgNode, args: Namespace = ONE_PROCESS) -> LightningExperiment:
    """The experiment of a whole config."""
    return _experiment_class(cfg)(cfg, args)


def _experiment_class(cfg: CfgNode) -> type[LightningExperiment]:
    if cfg.FRAMEWORK == "timm":
        return ClassificationExperiment
    name = cfg.MODEL.META_ARCHITECTURE
    if name in DETECTORS:
        return DetectionExperiment
    if name in SEGMENTERS:
        return SegmentationExperiment
    raise ConfigError(f"MODEL.META_ARCHITECTURE is {name!r}; {nearest(name, [*DETECTORS, *SEGMENTERS])}")
