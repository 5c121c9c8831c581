"""A run in a process of its own, by the commands that everybody uses."""

import ctypes
import functools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.proof.grid import ROOT

# A row of a table that a command prints: a name and a number.
_SCORE = re.compile(r"^\| (\S+) +\| (\S+) +\|$")
# A score of one class.
_OF_CLASS = re.compile(r"(AP|IoU)-")
# The folders of a file that a message names by its whole path.
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/'\",;]+/)+")
# Of Linux's prctl: the signal that a process gets when its parent is gone.
_PR_SET_PDEATHSIG = 1
# What a commit need not hold for a run to be its own.
_WRITTEN = ("benchmarks/results", "docs/results.md")


@dataclass(frozen=True)
class End:
    """How a child process ended; times in seconds, those of its own children included."""

    code: int
    wall: float
    cpu: float
    log: str

    @property
    def error(self) -> str:
        """The last line that tells of an error, or the last line; where files lie on this machine is left out."""
        lines = self.log.strip().splitlines() or [""]
        found = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
        return _FOLDERS.sub("", found)[:300]


def call(tool: str, words: Sequence[str], log: Path) -> End:
    """Run a script of ``tools/`` with one thread, in the root of the checkout; its output goes to the file ``log``.

    On Linux it ends with this process, by whatever signal that ends.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began, before = time.monotonic(), _cpu()
    with log.open("w") as file:
        command = [sys.executable, str(ROOT / "tools" / tool), *words]
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, check=False,
            preexec_fn=functools.partial(_end_with, os.getpid()),
        ).returncode  # fmt: skip
    return End(code, time.monotonic() - began, _cpu() - before, log.read_text(errors="replace"))


def scores(log: str, tests: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Split -> metric -> value, from the table at the end of a training's or an evaluation's output.

    Scores of single classes are left out.

    Args:
        tests: split -> name of the data set, which stands before the metric where there are several.
    """
    table = dict(match.groups() for line in log.splitlines() if (match := _SCORE.match(line)))
    found: dict[str, dict[str, float]] = {}
    for split, name in tests.items():
        prefix = f"{name}/" if len(tests) > 1 else ""
        found[split] = {
            key.removeprefix(prefix): float(value)
            for key, value in table.items()
            if key.startswith(prefix) and key != "metric" and not _OF_CLASS.search(key)
        }
    return found


def commit() -> tuple[str, bool]:
    """The commit of the checkout, and whether the work tree is that commit's but for the results."""
    changed = _git("status", "--porcelain", "--", ".", *(f":!{path}" for path in _WRITTEN))
    return _git("rev-parse", "--short=10", "HEAD").strip(), not changed.strip()


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _end_with(parent: int) -> None:
    """Let this process be ended when ``parent``, which started it, is gone; SIGTERM lets a training save itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before it could be asked for
            os._exit(1)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
