"""Training, evaluation and dry run on the road of Detectron2, in as many processes as there are GPUs."""

import contextlib
import glob
import json
import logging
import multiprocessing
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
from detectron2.utils.env import seed_all_rng
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from kd2.config import assemble
from kd2.config.schedule import scaled_config
from kd2.distill import ConfigError
from kd2.engine import ONE_PROCESS, flow
from kd2.engine.detectron2 import compat, logs
from kd2.engine.detectron2.config import defaults_of, run_config
from kd2.engine.detectron2.experiment import Detectron2Experiment
from kd2.engine.experiment import DataSet, DryRun, Scores
from kd2.engine.permission import permitted
from kd2.engine.rendezvous import join, meeting_point, reach, started
from kd2.engine.weights.checkpoint import saved_run
from kd2.losses.registry import import_losses
from kd2.runs.endings import TOLD, Interrupted, reported, signals_raise
from kd2.runs.files import write_atomically
from kd2.runs.folder import check_writable, last_checkpoint, resumable

# Seconds that processes of a run have to end by themselves at a signal.
_GRACE = 10.0


def run(loaded: dict[str, Any], config_file: str, args: Namespace) -> Scores:
    """Train, or with ``args.eval_only`` evaluate; returns the scores of the last evaluation on the first machine.

    Args:
        loaded: what ``kd2.config.read`` gave of ``config_file``.
        args: see ``kd2.engine.run``.

    Raises:
        ConfigError, DataError, NonFiniteLoss, OSError, Fault: from whichever process found it, with its text.
        Interrupted: see ``kd2.engine.flow.run``.
    """
    cfg = run_config(loaded, config_file)
    check_writable(cfg.OUTPUT_DIR)
    place = started(args)
    try:
        if place:
            join(place, cfg.MODEL.DEVICE.startswith("cuda"))
            comm.create_local_process_group(place.local_size)
            return _work(cfg, args)
        return launched(_work, _processes(cfg, args), args, (cfg, args))
    except Interrupted as end:
        raise Interrupted(end.signum, None if args.eval_only else last_checkpoint(cfg.OUTPUT_DIR)) from None


def dry_run(loaded: dict[str, Any], config_file: str) -> AbstractContextManager[DryRun]:
    """See ``kd2.engine.flow.dry_run``."""
    cfg = run_config(loaded, config_file)
    check_writable(cfg.OUTPUT_DIR)
    return flow.dry_run(_seeded(cfg, ONE_PROCESS))


def data_sets(loaded: dict[str, Any], config_file: str) -> dict[str, Callable[[], DataSet]]:
    """See ``kd2.engine.flow.data_sets``."""
    cfg = assemble(defaults_of(loaded, config_file), loaded, config_file)
    return flow.data_sets(Detectron2Experiment(cfg, ONE_PROCESS))


def experiment(loaded: dict[str, Any], config_file: str, args: Namespace) -> Detectron2Experiment:
    """The experiment of a config that was read, without a seed and a folder; it does not train."""
    return Detectron2Experiment(run_config(loaded, config_file, trains=False), args)


def launched(work: Callable[..., Any], processes: int, args: Namespace, work_args: tuple) -> Any:
    """Run ``work(*work_args)`` in processes of their own, or in this one when it is the only one.

    Returns:
        What the first process of this machine returned, by way of JSON.

    Raises:
        ConfigError, DataError, NonFiniteLoss, OSError, Fault: as the first process to meet one raised it.
        ChildProcessError: a process was lost.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            launch(_telling, processes, args.num_machines, args.machine_rank, args.dist_url, (work, folder, work_args))
        except Interrupted as end:
            _end_children(end.signum)
            raise
        except (ProcessRaisedException, ProcessExitedException) as error:
            told = sorted(glob.glob(os.path.join(folder, "*.json")), key=os.path.getmtime)
            if not told:
                raise ChildProcessError(
                    f"a process of the run was lost ({error}); the last checkpoint is kept"
                ) from None
            with open(told[0]) as file:
                kind, text = json.load(file)
            raise {known.__name__: known for known in TOLD}[kind](text) from None
        with open(os.path.join(folder, "result")) as file:
            return json.load(file)


def _telling(work: Callable[..., Any], folder: str, work_args: tuple) -> None:
    """Run ``work``; its result, or the kind and text of an error, are left in a file of this process in ``folder``."""
    child = multiprocessing.parent_process() is not None
    try:
        with signals_raise() if child else contextlib.nullcontext(), reported():
            result = work(*work_args)
    except TOLD as error:
        kind = next(known.__name__ for known in TOLD if isinstance(error, known))
        write_atomically(json.dumps([kind, str(error)]), os.path.join(folder, f"{comm.get_rank()}.json"))
        raise
    if comm.get_local_rank() == 0:
        write_atomically(json.dumps(result), os.path.join(folder, "result"))


def _end_children(signum: int) -> None:
    children = [child for child in multiprocessing.active_children() if not child.daemon]  # loader workers end alone
    for child in children:
        os.kill(child.pid, signum)
    for child in children:
        child.join(_GRACE)
        child.kill()


def _work(cfg: CfgNode, args: Namespace) -> Scores:
    """What every process does."""
    import_losses(args.imports)
    logging.getLogger("kd2").handlers.clear()  # the command's: the next line makes those of a run
    logs.log_on_screen()
    with permitted(pickles=args.allow_pickle, code=args.allow_code):  # in a started process, too
        return flow.run(_seeded(cfg, args))


def _seeded(cfg: CfgNode, args: Namespace) -> Detectron2Experiment:
    """The experiment, after the generators of this process are seeded as plain Detectron2 does.

    A ``SEED`` below 0 is drawn, once for all processes; a resumed run has that of its checkpoint.
    """
    cfg = scaled_config(cfg, comm.get_world_size())
    if cfg.SEED < 0:
        saved = resumable(cfg.OUTPUT_DIR) if args.resume else None
        cfg.SEED = saved_run(saved)[0]["seed"] if saved else comm.shared_random_seed()
    cfg.freeze()
    seed_all_rng(cfg.SEED + comm.get_rank())
    compat.set_precision(cfg)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return Detectron2Experiment(cfg, args)


def _processes(cfg: CfgNode, args: Namespace) -> int:
    """Processes on this machine: one a GPU, or a single one on the CPU."""
    point = meeting_point(args)
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        if args.num_machines > 1:
            raise ConfigError(f"--num-machines is {args.num_machines}, training on the CPU uses one process")
        return 1
    if args.num_gpus > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus is {args.num_gpus}, this machine has {torch.cuda.device_count()}")
    if point and args.num_machines * args.num_gpus > 1:
        reach(point, args.machine_rank)
    return max(args.num_gpus, 1)
