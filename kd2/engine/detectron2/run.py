"""Training, evaluation and dry run on the road of Detectron2, in as many processes as there are GPUs."""

import glob
import json
import logging
import os
import tempfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from kd2.distill import USER_ERRORS, ConfigError
from kd2.engine import ONE_PROCESS
from kd2.engine import experiment as flow
from kd2.engine.checkpoint import check_writable, last_checkpoint, saved_seed, write_atomically
from kd2.engine.detectron2 import compat
from kd2.engine.detectron2.config import run_config, scaled_config
from kd2.engine.detectron2.experiment import Detectron2Experiment
from kd2.engine.experiment import DryRun, Scores
from kd2.losses.registry import import_losses

_RESULTS = "results.json"


def run(loaded: dict[str, Any], config_file: str, args: Namespace) -> Scores:
    """Train, or with ``args.eval_only`` evaluate; returns the scores of the last evaluation on the first machine.

    Args:
        loaded: what ``kd2.config.read`` gave of ``config_file``.
        args: see ``kd2.engine.run``.

    Raises:
        ConfigError, DataError, NonFiniteLoss, OSError: from whichever process found it, with its text.
    """
    cfg = run_config(loaded, config_file)
    check_writable(cfg.OUTPUT_DIR)
    processes = _processes(cfg, args)
    results = os.path.join(cfg.OUTPUT_DIR, _RESULTS)
    if args.machine_rank == 0 and os.path.exists(results):
        os.remove(results)
    launched(_work, processes, args, (cfg, args))
    if args.machine_rank or not os.path.exists(results):
        return {}
    with open(results) as file:
        return json.load(file)


def dry_run(loaded: dict[str, Any], config_file: str) -> AbstractContextManager[DryRun]:
    """See ``kd2.engine.experiment.dry_run``."""
    cfg = run_config(loaded, config_file)
    check_writable(cfg.OUTPUT_DIR)
    return flow.dry_run(_seeded(cfg, ONE_PROCESS))


def launched(work: Callable[..., None], processes: int, args: Namespace, work_args: tuple) -> None:
    """Run ``work(*work_args)`` in processes of their own, or in this one when it is the only one.

    Raises:
        ConfigError, DataError, NonFiniteLoss, OSError: as the first process to meet one raised it.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            launch(_telling, processes, args.num_machines, args.machine_rank, args.dist_url, (work, folder, work_args))
        except (ProcessRaisedException, ProcessExitedException):
            told = sorted(glob.glob(os.path.join(folder, "*.json")), key=os.path.getmtime)
            if not told:
                raise
            with open(told[0]) as file:
                kind, text = json.load(file)
            raise {known.__name__: known for known in USER_ERRORS}[kind](text) from None


def _telling(work: Callable[..., None], folder: str, work_args: tuple) -> None:
    """Run ``work``; a user's error leaves its kind and text in a file of this process in ``folder``."""
    try:
        work(*work_args)
    except USER_ERRORS as error:
        kind = next(known.__name__ for known in USER_ERRORS if isinstance(error, known))
        write_atomically(json.dumps([kind, str(error)]), os.path.join(folder, f"{comm.get_rank()}.json"))
        raise


def _work(cfg: CfgNode, args: Namespace) -> None:
    """What every process does; the first one leaves the scores in ``OUTPUT_DIR``."""
    import_losses(args.imports)
    logging.getLogger("kd2").handlers.clear()  # the command's: the next lines make those of a run
    for name in ("fvcore", None, "kd2"):
        logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), **({"name": name} if name else {}))
    logger.info("%s\n%s\n%s", args, collect_env_info(), cfg.dump())
    scores = flow.run(_seeded(cfg, args))
    if comm.is_main_process() and scores:
        write_atomically(json.dumps(scores, indent=1), os.path.join(cfg.OUTPUT_DIR, _RESULTS))


def _seeded(cfg: CfgNode, args: Namespace) -> Detectron2Experiment:
    """The experiment, after the generators of this process are seeded as plain Detectron2 does.

    A ``SEED`` below 0 is drawn, once for all processes; a resumed run has that of its checkpoint.
    """
    cfg = scaled_config(cfg, comm.get_world_size())
    saved = last_checkpoint(cfg.OUTPUT_DIR) if args.resume else None
    if cfg.SEED < 0:
        cfg.SEED = saved_seed(saved) if saved else comm.shared_random_seed()
    cfg.freeze()
    seed_all_rng(cfg.SEED + comm.get_rank())
    compat.set_precision(cfg)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return Detectron2Experiment(cfg, args)


def _processes(cfg: CfgNode, args: Namespace) -> int:
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
