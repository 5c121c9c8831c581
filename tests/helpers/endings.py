"""The training command in a forked child, ended by a signal where a file is written."""

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

from kd2.cli import guarded, run_train, train_parser
from kd2.distill import Distiller


def command(*words: str, log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """``tools/train_net.py *words`` in a child, after ``prepare()`` there; its exit code, or minus its signal."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            sys.stdout = sys.stderr = log.open("w", buffering=1)
            sys.argv = ["train_net.py", *words]
            prepare()
            code = guarded(lambda: run_train(train_parser().parse_args()))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def signal_at(signum: int, point: int) -> Callable[[], None]:
    """For ``prepare``: the child gets ``signum`` before its file number ``point // 2`` is in place, or just behind."""

    def patch() -> None:
        replace, points = os.replace, iter(range(10**6))

        def replaced(source, target):
            for step in (lambda: None, lambda: replace(source, target)):
                step()
                if next(points) == point:
                    os.kill(os.getpid(), signum)

        os.replace = replaced

    return patch


def signal_in_step(signum: int, iteration: int) -> Callable[[], None]:
    """For ``prepare``: the child gets ``signum`` in the training step of ``iteration``, from 0."""
    return functools.partial(_in_step, iteration, lambda: os.kill(os.getpid(), signum))


def workers_lost_in_step(iteration: int) -> Callable[[], None]:
    """For ``prepare``: the child's loader workers are killed in the training step of ``iteration``, from 0."""
    return functools.partial(_in_step, iteration, _kill_workers)


def _kill_workers() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()


def _in_step(iteration: int, happen: Callable[[], None]) -> None:
    forward = Distiller.forward

    def changed(self, *args):
        if self.training and self.iteration == iteration:
            happen()
        return forward(self, *args)

    Distiller.forward = changed


def gone_on(*words: str, output: Path, log: Path) -> int:
    """Go on with what a child left in ``output``, from the beginning where it had no checkpoint."""
    return command("--resume" if (output / "last_checkpoint").exists() else "--overwrite", *words, log=log)
