"""Training and evaluation on the Detectron2 path, as tools/train_net.py asks for it."""

import argparse
import json
import logging
import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from kd2.engine.detectron2.augmented import check_augmentation
from kd2.engine.detectron2.checkpoint import CheckedCheckpointer
from kd2.engine.detectron2.config import load_config
from kd2.engine.detectron2.data import register
from kd2.engine.detectron2.evaluators import check_evaluators
from kd2.engine.detectron2.models import build_student, check_data_classes
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.detectron2.windows import check_windows
from kd2.engine.checkpoint import check_writable, last_checkpoint, read_checkpoint, write_atomically
from kd2.distill import ConfigError
from kd2.engine.preflight import start_up

logger = logging.getLogger(__name__)

_RESULTS = "results.json"


def run(config_file: str, options: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Train (or with ``args.eval_only`` evaluate) by a config file; returns the metrics of the last evaluation.

    Args:
        args: num_gpus, num_machines, machine_rank, dist_url, resume, eval_only as in Detectron2's scripts.

    Raises:
        ConfigError, DataError, NonFiniteLoss: what is wrong with the config, the data or a loss.
    """
    cfg = load_config(config_file, options)
    check_writable(cfg.OUTPUT_DIR)
    processes = _processes(cfg, args)
    results = os.path.join(cfg.OUTPUT_DIR, _RESULTS)
    if args.machine_rank == 0 and os.path.exists(results):
        os.remove(results)
    work = (config_file, list(options), args)
    launch(main, processes, args.num_machines, args.machine_rank, args.dist_url, args=work)
    if args.machine_rank or not os.path.exists(results):
        return {}
    with open(results) as file:
        return json.load(file)


def main(config_file: str, options: list[str], args: argparse.Namespace) -> None:
    """What every process does; the first one leaves the metrics in ``OUTPUT_DIR``."""
    cfg = setup(config_file, options, args)
    results = flatten_results_dict(evaluate(cfg, args.resume) if args.eval_only else train(cfg, args.resume))
    if comm.is_main_process() and results:
        write_atomically(json.dumps(results, indent=1), os.path.join(cfg.OUTPUT_DIR, _RESULTS))


def setup(config_file: str, options: list[str], args: argparse.Namespace) -> CfgNode:
    """The run's config with its seed (drawn once when ``SEED`` < 0), logs, and Detectron2's own set-up."""
    cfg = load_config(config_file, options)
    check_writable(cfg.OUTPUT_DIR)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="kd2")
    if cfg.SEED < 0 and not args.eval_only:
        cfg.SEED = _saved_seed(cfg.OUTPUT_DIR) if args.resume else None
        if cfg.SEED is None:
            cfg.SEED = comm.shared_random_seed()
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def train(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    """Train to ``SOLVER.MAX_ITER``; returns Detectron2's nested results."""
    trainer = Trainer(cfg)
    for line in start_up(trainer.distiller):
        logger.info(line)
    trainer.resume_or_load(resume)
    return trainer.train()


def evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    """Score the student of ``MODEL.WEIGHTS``, or with ``resume`` of the last checkpoint. No teacher is built."""
    path = last_checkpoint(cfg.OUTPUT_DIR) if resume else None
    path = path or cfg.MODEL.WEIGHTS
    if not path:
        raise ConfigError("MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate")
    register(cfg, cfg.DATASETS.TEST)
    check_evaluators(cfg.DATASETS.TEST)
    student = build_student(cfg)
    check_data_classes(student, cfg, cfg.DATASETS.TEST)
    check_windows(cfg, student)
    check_augmentation(cfg, student)
    CheckedCheckpointer(student, "MODEL.WEIGHTS", cfg.KD.ALLOW_PICKLE).load(path)
    results = Trainer.test(cfg, student)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_augmented(cfg, student))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _saved_seed(folder: str) -> int | None:
    path = last_checkpoint(folder)
    return read_checkpoint(path, "--resume")["trainer"]["hooks"]["RankStates"]["seed"] if path else None


def _processes(cfg: CfgNode, args: argparse.Namespace) -> int:
    """Processes on this machine: one a GPU, or a single one on the CPU."""
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        if args.num_machines > 1:
            raise ConfigError(f"--num-machines is {args.num_machines}, training on the CPU uses one process")
        return 1
    if args.num_gpus > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus is {args.num_gpus}, this machine has {torch.cuda.device_count()}")
    if args.num_machines > 1 and not args.dist_url.startswith("tcp://"):
        raise ConfigError(f"--dist-url is {args.dist_url!r}, expected tcp://HOST:PORT for several machines")
    return max(args.num_gpus, 1)
