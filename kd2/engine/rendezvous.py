"""The processes of a run: what a launcher says of this one, and where those of several machines meet.

Torchrun and srun start the processes themselves. Otherwise they meet at ``--dist-url``, which is looked at before a
framework waits there for half an hour.
"""

import logging
import os
import re
import socket
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlparse

import torch
from torch import distributed

from kd2.distill import ConfigError

logger = logging.getLogger(__name__)

# Seconds that the other machines wait for the first one, which may still be starting.
PATIENCE = 300.0
# What torchrun sets, and whose names are those of ``torch.distributed`` and of Lightning.
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Started:
    """This process among those of a run that a launcher started.

    Attributes:
        rank, size: in the whole run.
        local_rank, local_size: on this machine; every machine has as many.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def started(args: Namespace) -> Started | None:
    """What torchrun or srun says of this process; None for a single one, or where the command itself starts others.

    The variables of srun are written in the form of torchrun, which ``torch.distributed`` and Lightning read.

    Args:
        args: num_gpus, num_machines, dist_url of the command line. Below srun other values than the defaults mean the
            command's own launcher, one task a machine.

    Raises:
        ConfigError: variables that are missing or no numbers; tasks that are not dealt out in blocks of one size;
            with torchrun, arguments that say something else.
    """
    own = args.num_gpus not in (1, int(os.environ.get("LOCAL_WORLD_SIZE", 1))) or args.num_machines > 1
    if distributed.is_available() and distributed.is_torchelastic_launched():
        if own or args.dist_url != "auto":
            raise ConfigError(
                f"--num-gpus is {args.num_gpus}, --num-machines {args.num_machines} and --dist-url {args.dist_url}, "
                f"but torchrun started {os.environ.get('LOCAL_WORLD_SIZE')} processes a machine: leave them out"
            )
    elif own or os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return None
    try:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            os.environ.update(_of_slurm(os.environ))
        rank, size, local_rank, local_size, _, _ = (os.environ[name] for name in _TORCHRUN)
        place = Started(int(rank), int(size), int(local_rank), int(local_size))
    except (KeyError, ValueError) as error:
        raise ConfigError(f"the launcher gave no usable variables of its processes: {error}") from None
    if place.size % place.local_size or place.rank % place.local_size != place.local_rank:
        raise ConfigError(
            f"rank {place.rank} of {place.size} is number {place.local_rank} of {place.local_size} on its machine; "
            "expected equal blocks: srun with --ntasks-per-node and --distribution=block"
        )
    return place if place.size > 1 else None


def join(place: Started, gpu: bool) -> None:
    """Meet the other processes, by NCCL with a GPU for each of them, otherwise by gloo. Safe to repeat.

    Raises:
        ConfigError: fewer GPUs than processes on this machine.
    """
    if gpu and place.local_size > torch.cuda.device_count():
        raise ConfigError(
            f"the launcher started {place.local_size} processes on this machine, which has "
            f"{torch.cuda.device_count()} GPUs"
        )
    if gpu:
        torch.cuda.set_device(place.local_rank)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if gpu else "gloo")


def leads() -> bool:
    """Whether this process is the first of its run, or the only one."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _of_slurm(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a task of srun as torchrun would set them."""
    tasks, machines = int(variables["SLURM_STEP_NUM_TASKS"]), int(variables["SLURM_STEP_NUM_NODES"])
    # The same for all tasks of a step, another for other jobs and steps.
    number = int(variables.get("SLURM_JOB_ID", 0)) + 499 * int(variables.get("SLURM_STEP_ID", 0))
    port = 15_000 + number % 10_000
    first = re.sub(r"\[([^-,\]]+)[^\]]*\]", r"\1", variables["SLURM_STEP_NODELIST"]).split(",")[0]
    return {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": variables["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks // machines),
        "GROUP_RANK": variables["SLURM_NODEID"],
        "MASTER_ADDR": variables.get("MASTER_ADDR", first),
        "MASTER_PORT": variables.get("MASTER_PORT", str(port)),
    }


def meeting_point(args: Namespace) -> tuple[str, int] | None:
    """Host and port of ``--dist-url``; None for ``auto``, a free port of this one machine.

    Args:
        args: num_machines, machine_rank, dist_url of the command line.

    Raises:
        ConfigError: numbers that no machine has; no address where several machines need one.
    """
    if args.num_machines < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank is {args.machine_rank}, expected 0 to --num-machines - 1, of {args.num_machines} machines"
        )
    if args.dist_url == "auto" and args.num_machines == 1:
        return None
    try:
        url = urlparse(args.dist_url)
        host, port = url.hostname, url.port
    except ValueError:  # a port that is none
        url, host, port = None, None, None
    if url is None or url.scheme != "tcp" or not host or not port:
        raise ConfigError(f"--dist-url is {args.dist_url!r}, expected tcp://HOST:PORT for several machines")
    return host, port


def reach(point: tuple[str, int], rank: int, patience: float = PATIENCE) -> None:
    """Make sure that the machine ``rank`` can meet the others at ``point``.

    The first machine opens the port for a moment and calls itself by its name; the others wait until it answers.

    Raises:
        ConfigError: the first machine cannot be called so, or nobody answers for ``patience`` seconds.
    """
    where = f"--dist-url tcp://{point[0]}:{point[1]}"
    if rank == 0:
        try:
            with socket.create_server(("", point[1])):
                socket.create_connection(point, timeout=10).close()
        except OSError as error:
            raise ConfigError(f"{where}: this machine, of --machine-rank 0, cannot be called so: {error}") from None
        return
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection(point, timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(f"{where}: nobody has answered for {patience:g} seconds: {error}") from None
        time.sleep(min(1.0, patience))
