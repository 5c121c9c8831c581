"""Training and evaluation of classifiers, as tools/train_net.py asks for it."""

import argparse
import logging

from fvcore.common.config import CfgNode

from kd2.bridges.fit import run as fit
from kd2.bridges.tm.data import test_batches, training_batches
from kd2.bridges.tm.distiller import build_distiller, build_student
from kd2.bridges.tm.evaluation import Evaluator
from kd2.bridges.tm.module import ClassifierModule
from kd2.bridges.tm.solver import write_iterations
from kd2.bridges.tm.sources import check_classes, labelled, load_all
from kd2.config import teacher_file, timm_config
from kd2.core import ConfigError, Distiller
from kd2.data.pictures import Pictures

logger = logging.getLogger(__name__)


def settle(cfg: CfgNode, train: list[Pictures], tests: list[Pictures]) -> None:
    """Write what the data decide into the config: class names, and epochs as iterations."""
    if cfg.KD.INHERIT:
        raise ConfigError(f"KD.INHERIT is {cfg.KD.INHERIT!r}, but a classifier has no neck to inherit; expected ''")
    if cfg.KD.UNLABELED.DATASETS:
        raise ConfigError("KD.UNLABELED: images without use for labels go to DATASETS.TRAIN with KD.TASK_WEIGHT 0 here")
    if not cfg.MODEL.CLASSES:
        known = [d for d in [*tests, *train] if labelled(cfg, d)]
        cfg.MODEL.CLASSES = list(known[0].classes) if known else []
    images = sum(map(len, train))
    write_iterations(cfg, images)
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / max(images, 1)
    logger.info("%d iterations of %d images: %.4g epochs", cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, epochs)


TASK = fit.Task(
    load=load_all,
    check=check_classes,
    student=build_student,
    distiller=build_distiller,
    training_batches=training_batches,
    test_batches=test_batches,
    evaluator=Evaluator,
    body="",
    settle=settle,
    module=ClassifierModule,
)


def setup(config_file: str, options: list[str], resume: bool = False) -> CfgNode:
    """See ``kd2.bridges.fit.run.setup``; the files of ``KD.TEACHER.MORE`` are found like the teacher's."""
    cfg = fit.setup(timm_config(), config_file, options, resume)
    for block in cfg.KD.TEACHER.MORE.values():
        block["CONFIG_FILE"] = teacher_file(block.get("CONFIG_FILE", ""), config_file) or block.get("CONFIG_FILE", "")
    return cfg


def run(config_file: str, options: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Train (or with ``args.eval_only`` evaluate) by a config file; returns the metrics of the last evaluation."""
    return fit.run(setup(config_file, options, args.resume), TASK, args)


def train(cfg: CfgNode, args: argparse.Namespace, callbacks: list = ()) -> dict[str, float]:
    """See ``kd2.bridges.fit.run.train``."""
    return fit.train(cfg, TASK, args, callbacks)


def prepared(cfg: CfgNode, resuming: bool = False) -> Distiller:
    """See ``kd2.bridges.fit.run.prepared``."""
    return fit.prepared(cfg, TASK, resuming)
