"""A series of runs, one after the other: what the journal has is not done again."""

import contextlib
import dataclasses
import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.proof import child
from benchmarks.proof.fingerprint import OUTPUT, as_words, file_identity
from benchmarks.proof.grid import ROOT, Grid, Run
from benchmarks.proof.journal import FAILED, FINISHED, INTERRUPTED, MEASURED, STARTED, Journal, Record
from kd2.distill import ConfigError

ROUNDS = 20
ITERATIONS = "SOLVER.MAX_ITER"


class Series:
    """Trains and measures the runs of one data set.

    Args:
        journal: takes a line for every start and every end.
        output: holds a folder and a log a run.
        again: whether runs that failed are repeated.
    """

    def __init__(self, journal: Journal, output: Path = ROOT / "output" / OUTPUT, again: bool = False):
        self.journal, self.output, self.again = journal, output, again

    def teacher(self, grid: Grid, road: str, weights: str | None) -> str:
        """The file of a road's teacher, with its scores in the journal: ``weights``, the grid's, or one trained now.

        Raises:
            ConfigError: the file does not exist; it could not be trained or scored.
        """
        run, given = grid.teacher(road), weights or grid.teacher_file(road)
        if given:
            run = dataclasses.replace(run, hash=file_identity(given), options=run.options | {"MODEL.WEIGHTS": given})
            self._end(run, "--eval-only")
            return given
        while self.train(run) is None:  # another process trains it
            time.sleep(10)
        if not self.weights(run).is_file():  # it was trained on another machine
            self._train(run, "--overwrite")
        return str(self.weights(run))

    def timed(self, runs: Sequence[Run], rows: Sequence[str]) -> list[Run]:
        """The runs of these rows. What a step of the default losses takes is measured; those that are to be ``longer``
        have their iterations by it."""
        first = {run.row: run for run in reversed(runs)}
        longer = any(first[row].longer for row in rows)
        ratios = {name: self.step_ratio(run) for name, run in first.items() if run.default and (longer or name in rows)}
        if longer:
            costliest = max(ratios, key=lambda name: ratios[name])
            ratio = ratios[costliest]
            print(f"r = {ratio}: step time of {costliest} / the student alone, median of {ROUNDS} pairs", flush=True)
            scaled = {ITERATIONS: round(runs[0].iterations * ratio)}
            runs = [run.with_options(scaled) if run.longer else run for run in runs]
        return [run for run in runs if run.row in rows]

    def train(self, run: Run) -> Record | None:
        """The end of a run, from the journal or from training now; None: another process trains it at this moment."""
        return self._end(run, "--overwrite")

    def weights(self, run: Run) -> Path:
        """Where the student of a run lies."""
        return self.output / run.data / run.folder / "model_final.pth"

    def step_ratio(self, run: Run) -> float:
        """How many times as long as the student's alone a distilled step takes, measured once.

        Raises:
            ConfigError: the measurement ended with an error.
        """
        known = self.journal.records(status=MEASURED, road=run.road, hash=run.hash)
        return known[0]["step_ratio"] if known else self._measure(run)

    def _end(self, run: Run, option: str) -> Record | None:
        with self._claimed(run.folder) as mine:
            known = self.journal.ended(run.road, run.hash, run.seed)
            if known and not (self.again and known["status"] == FAILED):
                return known
            return self._train(run, option) if mine else None

    def _train(self, run: Run, option: str) -> Record:
        """Train, or with ``--eval-only`` evaluate."""
        commit, clean = child.commit()
        start = self._record(run) | {"commit": commit, "clean": clean}
        self.journal.append({"status": STARTED} | start)
        print(f"{run.road}, {run.row}, seed {run.seed}", flush=True)
        folder = self.weights(run).parent
        own = {"DATASETS.TEST": list(run.tests.values()), "SEED": run.seed, "OUTPUT_DIR": str(folder)}
        words = [option, "--config-file", str(ROOT / run.config), *as_words(dict(run.options) | own)]
        end = {"status": INTERRUPTED}
        try:
            end = _told(run, child.call("train_net.py", words, folder.with_suffix(".log")))
        finally:
            self.journal.append(end | start | {"time": _now()})
        print("   ", {key: value for key, value in end.items() if key not in run.tests}, flush=True)
        return end | start

    def _measure(self, run: Run) -> float:
        folder = self.output / run.data / f"step-{run.road}-{run.hash}"
        found = folder.with_suffix(".json")
        options = dict(run.options) | {"SEED": 1, "OUTPUT_DIR": str(folder)}
        words = ["step", "--rounds", str(ROUNDS), "--json", str(found), "--config-file", str(ROOT / run.config)]
        end = child.call("benchmark.py", [*words, *as_words(options)], folder.with_suffix(".log"))
        if end.code:
            raise ConfigError(f"{run.row}: the time of a step could not be measured: {end.error}")
        ratio = round(json.loads(found.read_text())["ratio"], 3)
        self.journal.append({"status": MEASURED} | self._record(run) | {"step_ratio": ratio, "pairs": ROUNDS})
        return ratio

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


def _told(run: Run, end: child.End) -> Record:
    """What the journal keeps of an end."""
    seconds = {"wall_seconds": round(end.wall, 1), "cpu_seconds": round(end.cpu, 1)}
    if end.code == 0:
        return {"status": FINISHED} | seconds | child.scores(end.log, run.tests)
    ended_by_signal = end.code < 0 or end.code > 128
    return {"status": INTERRUPTED if ended_by_signal else FAILED} | seconds | {"error": end.error}


def _now() -> str:
    return time.strftime("%FT%TZ", time.gmtime())
