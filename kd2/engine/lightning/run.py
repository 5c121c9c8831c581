"""Training and evaluation with Lightning, as tools/train_net.py asks for it, whatever kind of model it is."""

import argparse
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from kd2.engine.checkpoint import check_writable, last_checkpoint, read_checkpoint, save_atomically, weights_of
from kd2.engine.lightning.module import FitModule, load_student
from kd2.engine.lightning.trainer import build_trainer
from kd2.engine.init_student import initialize
from kd2.config import merge, read, resolve_teacher
from kd2.distill import ConfigError, Distiller
from kd2.engine.preflight import start_up

logger = logging.getLogger(__name__)


def _leave(cfg: CfgNode, train: list[Any], tests: list[Any]) -> None:
    """Nothing in the config depends on the data."""


def _plain_module(distiller: Distiller, cfg: CfgNode, evaluator: Any, train: list[Any]) -> FitModule:
    return FitModule(distiller, cfg, evaluator)


@dataclass(frozen=True)
class Task:
    """What one kind of model brings to a training; every function takes the run's config first.

    Attributes:
        load: the data sets of DATASETS.TRAIN or DATASETS.TEST, each with a ``name``.
        check: raises ConfigError when the data sets do not fit the model.
        student: the model with its initial weights drawn from SEED.
        distiller: the student with teacher and losses, when some loss counts.
        training_batches: (cfg, data sets, first iteration, rank, ranks) to an endless loader of this rank's batches.
        test_batches: (cfg, data set, rank, ranks) to a loader of this rank's share.
        evaluator: (cfg, data set) to an object that is called with (student, batch) and asked for ``result()``.
        body: see ``kd2.engine.init_from_teacher``.
        settle: (cfg, training data, test data) writes into the config what the data decide, before anything is built.
        module: (distiller, cfg, evaluator, training data) to the Lightning module.
    """

    load: Callable[[CfgNode, str], list[Any]]
    check: Callable[[CfgNode, list[Any]], None]
    student: Callable[[CfgNode], nn.Module]
    distiller: Callable[[CfgNode], Distiller]
    training_batches: Callable[[CfgNode, list[Any], int, int, int], DataLoader]
    test_batches: Callable[[CfgNode, Any, int, int], DataLoader]
    evaluator: Callable[[CfgNode, Any], Any]
    body: str
    settle: Callable[[CfgNode, list[Any], list[Any]], None] = _leave
    module: Callable[[Distiller, CfgNode, Any, list[Any]], FitModule] = _plain_module


def setup(defaults: CfgNode, config_file: str, options: list[str], resume: bool = False) -> CfgNode:
    """The run's config: defaults, file, options; the output folder exists and a seed is drawn when ``SEED`` < 0."""
    cfg = merge(defaults, read(config_file, options))
    resolve_teacher(cfg, config_file)
    check_writable(cfg.OUTPUT_DIR)
    saved = last_checkpoint(cfg.OUTPUT_DIR) if resume else None
    if saved and cfg.SEED < 0:
        cfg.SEED = read_checkpoint(saved, "--resume")["kd2"]["seed"]
    # Lightning hands the drawn seed to the processes it starts.
    cfg.SEED = lightning.seed_everything(cfg.SEED if cfg.SEED >= 0 else None)
    return cfg


def run(cfg: CfgNode, task: Task, args: argparse.Namespace) -> dict[str, float]:
    """Train, or with ``args.eval_only`` evaluate; returns the metrics of the last evaluation."""
    return evaluate(cfg, task, args) if args.eval_only else train(cfg, task, args)


def evaluate(cfg: CfgNode, task: Task, args: argparse.Namespace) -> dict[str, float]:
    """Score the student of ``MODEL.WEIGHTS``. No teacher is built."""
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate")
    data = task.load(cfg, "TEST")
    task.check(cfg, data)
    student = task.student(cfg)
    state = weights_of(read_checkpoint(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS"))
    load_student(student, state, cfg.MODEL.WEIGHTS, partial=False)
    cfg.TEST.EVAL_PERIOD = 1
    trainer = build_trainer(cfg, args)
    return _scores(trainer, task.module(Distiller(student), cfg, None, []), cfg, task, data)


def train(cfg: CfgNode, task: Task, args: argparse.Namespace, callbacks: list = ()) -> dict[str, float]:
    """Train, write ``model_final.pth``, and evaluate when ``DATASETS.TEST`` is given."""
    data = task.load(cfg, "TRAIN")
    tests = task.load(cfg, "TEST") if cfg.DATASETS.TEST else []
    task.check(cfg, [*data, *tests])
    task.settle(cfg, data, tests)
    saved = last_checkpoint(cfg.OUTPUT_DIR) if args.resume else None
    evaluator = functools.partial(task.evaluator, cfg, tests[0]) if tests else None
    module = task.module(prepared(cfg, task, resuming=bool(saved)), cfg, evaluator, data)
    trainer = build_trainer(cfg, args, callbacks)
    if trainer.is_global_zero:
        with open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
            file.write(cfg.dump())
    start = read_checkpoint(saved, "--resume")["global_step"] if saved else 0
    rank, ranks = trainer.global_rank, trainer.world_size
    torch.manual_seed(cfg.SEED + rank)
    batches = task.training_batches(cfg, data, start, rank, ranks)
    during = task.test_batches(cfg, tests[0], rank, ranks) if tests and cfg.TEST.EVAL_PERIOD else None
    logger.info("Training from iteration %d to %d", start, cfg.SOLVER.MAX_ITER)
    trainer.fit(module, batches, during, ckpt_path=saved, weights_only=True)
    if trainer.is_global_zero:
        save_atomically(module.final_checkpoint(), os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
    return _scores(trainer, module, cfg, task, tests) if tests else {}


def prepared(cfg: CfgNode, task: Task, resuming: bool = False) -> Distiller:
    """The distiller in train mode; its student has ``MODEL.WEIGHTS``, then what it inherits, unless it is resuming."""
    distiller = task.distiller(cfg)
    if cfg.MODEL.WEIGHTS and not resuming:
        state = weights_of(read_checkpoint(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS"))
        match = load_student(distiller.student, state, cfg.MODEL.WEIGHTS, partial=True)
        logger.info("MODEL.WEIGHTS: %s", match.text())
        if distiller.facts:
            distiller.facts["matched weights"] = (f"{100 * match.share:.1f} %", distiller.facts["matched weights"][1])
    if not resuming:
        initialize(distiller, cfg, task.body)
    for line in start_up(distiller):
        logger.info(line)
    return distiller.train()


def _scores(trainer: lightning.Trainer, module: FitModule, cfg: CfgNode, task: Task, tests: list) -> dict[str, float]:
    results = {}
    for test in tests:
        module.new_evaluator = functools.partial(task.evaluator, cfg, test)
        trainer.limit_val_batches = 1.0
        trainer.validate(module, task.test_batches(cfg, test, trainer.global_rank, trainer.world_size), verbose=False)
        scores = module.results
        results |= scores if len(tests) == 1 else {f"{test.name}/{name}": x for name, x in scores.items()}
    return results
