"""A series of runs, one after the other: what the journal has is not done again."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.proof import child
from benchmarks.proof.fingerprint import OUTPUT, ROOT, as_words
from benchmarks.proof.grid import ITERATIONS, Run
from benchmarks.proof.journal import FAILED, FINISHED, INTERRUPTED, MEASURED, STARTED, Journal, Record
from benchmarks.proof.teachers import Teacher, student_file, write_scaled
from kd2.distill import ConfigError

ROUNDS = 20


class Series:
    """Trains and measures the runs of one data set.

    Args:
        journal: takes a line for every start and every end.
        output: holds a folder and a log a run.
        again: whether runs that failed are repeated.
    """

    def __init__(self, journal: Journal, output: Path = ROOT / "output" / OUTPUT, again: bool = False):
        self.journal, self.output, self.again = journal, output, again

    def prepare(self, teacher: Teacher) -> str:
        """Train or score a teacher, whatever is left of it to do; returns the file for the students.

        Raises:
            ConfigError: it could not be trained, or its weights not be scaled.
        """
        if teacher.given:
            self._end(teacher.run, "--eval-only")
        else:
            while (end := self.train(teacher.run, teacher.source)) is None:  # another process trains it
                time.sleep(10)
            if end["status"] != FINISHED:
                raise ConfigError(f"the teacher could not be trained: {end.get('error', end['status'])}")
        if teacher.factors and not os.path.isfile(teacher.weights):
            write_scaled(teacher)
        return teacher.weights

    def measure(self, runs: Sequence[Run]) -> None:
        """Measure how many times as long as the student's alone a distilled step of each run takes, where the journal
        does not have it. What cannot be measured is told; its training will say why."""
        for run in runs:
            if not self.journal.records(status=MEASURED, road=run.road, hash=run.hash):
                self._measure(run)

    def train(self, run: Run, needed: str = "") -> Record | None:
        """The end of a run, from the journal or from training now; None: another process trains it at this moment.

        Args:
            needed: a file that the run leaves; one that finished without it here, on another machine, is repeated.
        """
        return self._end(run, "--overwrite", needed)

    def _end(self, run: Run, option: str, needed: str = "") -> Record | None:
        with self._claimed(run.folder) as mine:
            known = self.journal.ended(run.road, run.hash, run.seed)
            if known and not self._to_be_repeated(known, needed):
                return known
            return self._train(run, option) if mine else None

    def _to_be_repeated(self, known: Record, needed: str) -> bool:
        if known["status"] == FINISHED:
            return bool(needed) and not os.path.isfile(needed)
        return self.again and known["status"] == FAILED

    def _train(self, run: Run, option: str) -> Record:
        """Train, or with ``--eval-only`` evaluate."""
        commit, clean = child.commit()
        start = self._record(run) | {"commit": commit, "clean": clean}
        self.journal.append({"status": STARTED} | start)
        print(f"{run.road}, {run.row}, seed {run.seed}", flush=True)
        folder = Path(student_file(self.output, run)).parent
        own = {"DATASETS.TEST": list(run.tests.values()), "SEED": run.seed, "OUTPUT_DIR": str(folder)}
        words = [option, "--config-file", str(ROOT / run.config), *as_words({**run.options, **own})]
        end = {"status": INTERRUPTED}
        try:
            end = _told(run, child.call("train_net.py", words, folder.with_suffix(".log")))
        finally:
            self.journal.append(end | start | {"time": _now()})
        print("   ", {key: value for key, value in end.items() if key not in run.tests}, flush=True)
        return end | start

    def _measure(self, run: Run) -> None:
        folder = self.output / run.data / f"step-{run.road}-{run.hash}"
        found = folder.with_suffix(".json")
        options = {**run.options, "SEED": 1, "OUTPUT_DIR": str(folder)}
        words = ["step", "--rounds", str(ROUNDS), "--json", str(found), "--config-file", str(ROOT / run.config)]
        end = child.call("benchmark.py", [*words, *as_words(options)], folder.with_suffix(".log"))
        if end.code:
            print(f"{run.row}: the time of a step cannot be measured: {end.error}", flush=True)
            return
        ratio = round(json.loads(found.read_text())["ratio"], 3)
        self.journal.append({"status": MEASURED} | self._record(run) | {"step_ratio": ratio, "pairs": ROUNDS})

    def _record(self, run: Run) -> Record:
        names = ("data", "road", "section", "row", "seed", "iterations", "hash")
        return {name: getattr(run, name) for name in names} | {"time": _now()}

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[bool]:
        """Whether this process, and no other, has the run of that name inside the block."""
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / f"{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def costliest(every: Sequence[Run], journal: Journal) -> tuple[str, float] | None:
    """Row and step ratio of the default losses whose step takes longest; None: none was measured."""
    ratios = {run.row: ratio for run in every if run.default and (ratio := step_ratio(journal, run))}
    return max(ratios.items(), key=lambda item: item[1]) if ratios else None


def lengthened(runs: Sequence[Run], every: Sequence[Run], journal: Journal) -> list[Run]:
    """The runs; those that are to be ``longer`` with the iterations that the costliest default loss is worth.

    Args:
        every: all runs of the section.
        journal: has the measurements; without any the ``longer`` ones are left out.
    """
    found = costliest(every, journal)
    if found is None:
        return [run for run in runs if not run.longer]
    scaled = {ITERATIONS: round(every[0].iterations * found[1])}
    return [run.with_options(scaled) if run.longer else run for run in runs]


def step_ratio(journal: Journal, run: Run) -> float | None:
    """How many times as long as the student's alone a step of the run takes; None: it was not measured."""
    known = journal.records(status=MEASURED, road=run.road, hash=run.hash)
    return known[0]["step_ratio"] if known else None


def _told(run: Run, end: child.End) -> Record:
    """What the journal keeps of an end."""
    seconds = {"wall_seconds": round(end.wall, 1), "cpu_seconds": round(end.cpu, 1)}
    if end.code == 0:
        return {"status": FINISHED} | seconds | child.scores(end.log, run.tests)
    ended_by_signal = end.code < 0 or end.code > 128
    return {"status": INTERRUPTED if ended_by_signal else FAILED} | seconds | {"error": end.error}


def _now() -> str:
    return time.strftime("%FT%TZ", time.gmtime())
