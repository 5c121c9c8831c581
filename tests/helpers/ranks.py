"""Two ranks of one group, for tests of what processes do together."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing import start_processes

# What every rank needs is imported once, by the process that all of them are forked from.
multiprocessing.get_context("forkserver").set_forkserver_preload(["torch.nn.parallel", "kd2.engine.build"])


def in_two_ranks(work: Callable[..., object], folder: Path, *arguments: object) -> list:
    """What ``work(rank, *arguments)``, a function of a module, returns in either rank of a gloo group of two.

    The ranks meet in the empty folder, and have one thread each.
    """
    start_processes(_ranked, (work, str(folder), arguments), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _ranked(rank: int, work: Callable[..., object], folder: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(work(rank, *arguments), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
