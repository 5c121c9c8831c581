"""Training and evaluation on the torchvision path, as tools/train_net.py asks for it."""

import argparse
import functools
import logging
import os

import lightning
import torch
from fvcore.common.config import CfgNode

from kd2.bridges.files import check_writable, last_checkpoint, read_checkpoint, save_atomically, weights_of
from kd2.bridges.fit.module import FitModule, load_student
from kd2.bridges.fit.trainer import build_trainer
from kd2.bridges.inherit import initialise
from kd2.bridges.tv.data import check_classes, load_all, test_batches, training_batches
from kd2.bridges.tv.distiller import TorchvisionDistiller, build_distiller, build_student
from kd2.bridges.tv.evaluation import CocoEvaluator
from kd2.bridges.tv.models import BODY, num_classes
from kd2.config import merge, read, resolve_teacher, torchvision_config
from kd2.core import ConfigError
from kd2.preflight import start_up

logger = logging.getLogger(__name__)


def setup(config_file: str, options: list[str], resume: bool = False) -> CfgNode:
    """The run's config: defaults, file, options; the output folder exists and a seed is drawn when ``SEED`` < 0."""
    cfg = merge(torchvision_config(), read(config_file, options))
    resolve_teacher(cfg, config_file)
    check_writable(cfg.OUTPUT_DIR)
    saved = last_checkpoint(cfg.OUTPUT_DIR) if resume else None
    if saved and cfg.SEED < 0:
        cfg.SEED = read_checkpoint(saved, "--resume")["kd2"]["seed"]
    # Lightning hands the drawn seed to the processes it starts.
    cfg.SEED = lightning.seed_everything(cfg.SEED if cfg.SEED >= 0 else None)
    return cfg


def run(config_file: str, options: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Train (or with ``args.eval_only`` evaluate) by a config file; returns the metrics of the last evaluation."""
    cfg = setup(config_file, options, args.resume)
    if args.eval_only:
        return evaluate(cfg, args)
    return train(cfg, args)


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    """Score the student of ``MODEL.WEIGHTS``. No teacher is built."""
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate")
    data = load_all(cfg, "TEST")
    check_classes(data, *num_classes(cfg))
    student = build_student(cfg)
    state = weights_of(read_checkpoint(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS"))
    load_student(student, state, cfg.MODEL.WEIGHTS, partial=False)
    cfg.TEST.EVAL_PERIOD = 1
    trainer = build_trainer(cfg, args)
    return _scores(trainer, FitModule(TorchvisionDistiller(student), cfg, None), cfg, data)


def train(cfg: CfgNode, args: argparse.Namespace, callbacks: list = ()) -> dict[str, float]:
    """Train, write ``model_final.pth``, and evaluate when ``DATASETS.TEST`` is given."""
    data = load_all(cfg, "TRAIN")
    tests = load_all(cfg, "TEST") if cfg.DATASETS.TEST else []
    check_classes([*data, *tests], *num_classes(cfg))
    saved = last_checkpoint(cfg.OUTPUT_DIR) if args.resume else None
    module = FitModule(prepared(cfg, resuming=bool(saved)), cfg, functools.partial(CocoEvaluator, tests[0]) if tests else None)
    trainer = build_trainer(cfg, args, callbacks)
    if trainer.is_global_zero:
        with open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
            file.write(cfg.dump())
    start = read_checkpoint(saved, "--resume")["global_step"] if saved else 0
    rank, ranks = trainer.global_rank, trainer.world_size
    torch.manual_seed(cfg.SEED + rank)
    batches = training_batches(cfg, data, start, rank, ranks)
    during = test_batches(cfg, tests[0], rank, ranks) if tests and cfg.TEST.EVAL_PERIOD else None
    logger.info("Training from iteration %d to %d", start, cfg.SOLVER.MAX_ITER)
    trainer.fit(module, batches, during, ckpt_path=saved, weights_only=True)
    if trainer.is_global_zero:
        save_atomically(module.final_checkpoint(), os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    return _scores(trainer, module, cfg, tests) if tests else {}


def prepared(cfg: CfgNode, resuming: bool = False) -> TorchvisionDistiller:
    """The distiller in train mode; its student has ``MODEL.WEIGHTS``, then what it inherits, unless it is resuming."""
    distiller = build_distiller(cfg)
    if cfg.MODEL.WEIGHTS and not resuming:
        state = weights_of(read_checkpoint(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS"))
        match = load_student(distiller.student, state, cfg.MODEL.WEIGHTS, partial=True)
        logger.info("MODEL.WEIGHTS: %s", match.text())
        if distiller.facts:
            distiller.facts["matched weights"] = (f"{100 * match.share:.1f} %", distiller.facts["matched weights"][1])
    if not resuming:
        initialise(distiller, cfg, BODY)
    for line in start_up(distiller):
        logger.info(line)
    return distiller.train()


def _scores(trainer: lightning.Trainer, module: FitModule, cfg: CfgNode, tests: list) -> dict[str, float]:
    results = {}
    for test in tests:
        module.new_evaluator = functools.partial(CocoEvaluator, test)
        trainer.limit_val_batches = 1.0
        trainer.validate(module, test_batches(cfg, test, trainer.global_rank, trainer.world_size), verbose=False)
        scores = module.results
        results |= scores if len(tests) == 1 else {f"{test.name}/{name}": x for name, x in scores.items()}
    return results
