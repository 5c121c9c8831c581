"""Training and evaluation of classifiers, as tools/train_net.py asks for it."""

import argparse
import logging

from fvcore.common.config import CfgNode

from kd2.engine.lightning import run as fit
from kd2.engine.lightning.classification.data import test_batches, training_batches
from kd2.engine.lightning.classification.distiller import build_distiller, build_student
from kd2.engine.lightning.classification.evaluation import Evaluator
from kd2.engine.lightning.classification.module import ClassifierModule
from kd2.engine.lightning.classification.solver import write_iterations
from kd2.engine.lightning.classification.sources import check_classes, labeled, load_all
from kd2.config import teacher_file, timm_config
from kd2.distill import ConfigError, Distiller
from kd2.data.classification.image_dataset import ImageDataset

logger = logging.getLogger(__name__)


def settle(cfg: CfgNode, train: list[ImageDataset], tests: list[ImageDataset]) -> None:
    """Write what the data decide into the config: class names, and epochs as iterations."""
    if cfg.KD.INIT_FROM_TEACHER:
        raise ConfigError(f"KD.INIT_FROM_TEACHER is {cfg.KD.INIT_FROM_TEACHER!r}, but a classifier has no neck to inherit; expected ''")
    if cfg.KD.UNLABELED.DATASETS:
        raise ConfigError("KD.UNLABELED: images without use for labels go to DATASETS.TRAIN with KD.TASK_WEIGHT 0 here")
    if not cfg.MODEL.CLASSES:
        known = [d for d in [*tests, *train] if labeled(cfg, d)]
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
    """See ``kd2.engine.lightning.run.setup``; the files of ``KD.TEACHER.MORE`` are found like the teacher's."""
    cfg = fit.setup(timm_config(), config_file, options, resume)
    for block in cfg.KD.TEACHER.MORE.values():
        block["CONFIG_FILE"] = teacher_file(block.get("CONFIG_FILE", ""), config_file) or block.get("CONFIG_FILE", "")
    return cfg


def run(config_file: str, options: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Train (or with ``args.eval_only`` evaluate) by a config file; returns the metrics of the last evaluation."""
    return fit.run(setup(config_file, options, args.resume), TASK, args)


def train(cfg: CfgNode, args: argparse.Namespace, callbacks: list = ()) -> dict[str, float]:
    """See ``kd2.engine.lightning.run.train``."""
    return fit.train(cfg, TASK, args, callbacks)


def prepared(cfg: CfgNode, resuming: bool = False) -> Distiller:
    """See ``kd2.engine.lightning.run.prepared``."""
    return fit.prepared(cfg, TASK, resuming)
