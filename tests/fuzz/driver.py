"""Reads drawn inputs, each in a child process of its own that may neither hang nor crash nor write.

A kind of input is two functions: ``write(folder, rng)`` draws one into an empty folder, ``read(folder)`` gives it to
the readers that a run uses.
"""

import faulthandler
import os
import random
import resource
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kd2.distill import USER_ERRORS

Write = Callable[[Path, random.Random], None]
Read = Callable[[Path], None]

# Seconds of CPU time and of the clock, bytes that a child may take beyond what it was born with.
CPU, CLOCK, MEMORY = 10, 60, 4 << 30
GOOD, BAD = ("accepted", "refused"), ("traceback", "hang", "crash", "written")


@dataclass(frozen=True)
class Verdict:
    """What a child made of an input: one of ``GOOD`` or ``BAD``, and the error's text."""

    kind: str
    text: str = ""


def tally(write: Write, read: Read, folder: Path, count: int) -> tuple[Counter, list[str]]:
    """Judge ``count`` inputs, the same ones in every run.

    Returns:
        Inputs by kind of verdict, and a line for each bad one, which is kept below ``folder``.
    """
    counts: Counter = Counter()
    bad: list[str] = []

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.randoms(use_true_random=True))
    def one(rng: random.Random) -> None:
        place = folder / "input"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        write(place, rng)
        verdict = judge(read, place)
        counts[verdict.kind] += 1
        if verdict.kind in BAD:
            kept = folder / f"bad_{len(bad)}"
            shutil.copytree(place, kept, symlinks=True)
            bad.append(f"{verdict.kind} {kept}: {verdict.text}")

    one()
    return counts, bad


def judge(read: Read, folder: Path) -> Verdict:
    """Let a child read ``folder``; its working folder, which must stay empty, lies beside it."""
    working = folder.parent / "working"
    working.mkdir(exist_ok=True)
    before = _files(folder.parent)
    told, tells = os.pipe()
    child = os.fork()
    if not child:
        os.close(told)
        _run(read, folder, working, tells)
    os.close(tells)
    with open(told, "rb") as pipe:
        kind, _, text = pipe.read().decode(errors="replace").partition(" ")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL)
        return Verdict("hang" if hung else "crash", signal.Signals(number).name)
    if _files(folder.parent) != before:
        return Verdict("written", str(set(_files(folder.parent).items()) ^ set(before.items())))
    if kind == "refused" and "\n" in text:
        return Verdict("traceback", f"an error of several lines: {text}")
    return Verdict(kind, text)


def _run(read: Read, folder: Path, working: Path, tells: int) -> None:
    """The child; it never returns."""
    try:
        faulthandler.disable()
        os.chdir(working)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 1))
        signal.alarm(CLOCK)
        answer = _answer(read, folder)
        os.write(tells, answer.encode(errors="replace")[:4000])
    finally:
        os._exit(0)


def _answer(read: Read, folder: Path) -> str:
    try:
        read(folder)
    except USER_ERRORS as error:
        return f"refused {error}"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
    return "accepted"


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}
