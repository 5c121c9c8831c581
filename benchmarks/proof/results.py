"""What a journal says of a section of a grid: scores by row and seed, and their differences to the student alone."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.proof.grid import ALONE, Grid, Run
from benchmarks.proof.journal import FINISHED, MEASURED, STARTED, Journal, Record
from benchmarks.proof.series import lengthened, step_ratio
from benchmarks.proof.teachers import teacher_of
from kd2.report.statistics import PairedDifference, paired_difference, recovery


@dataclass(frozen=True)
class Row:
    """The runs of one config.

    Attributes:
        run: the first of them.
        ends: seed -> how it ended, of the seeds that are printed.
        started: seeds whose run was started, however it ended.
        step_ratio: time of a step / that of the student alone; None: not measured.
    """

    run: Run
    ends: Mapping[int, Record]
    started: frozenset[int]
    step_ratio: float | None

    def scores(self, split: str, metric: str) -> dict[int, float]:
        """Seed -> score on a split, of the runs that finished."""
        found = {seed: end.get(split, {}).get(metric) for seed, end in self.ends.items() if end["status"] == FINISHED}
        return {seed: score for seed, score in found.items() if score is not None}

    @property
    def unfinished(self) -> list[int]:
        """Seeds whose run was started and did not finish."""
        return sorted(seed for seed in self.started if self.ends.get(seed, {}).get("status") != FINISHED)

    @property
    def cpu_seconds(self) -> float | None:
        """Mean CPU seconds of a run, its start and its evaluations included."""
        seconds = [end["cpu_seconds"] for end in self.ends.values() if end["status"] == FINISHED]
        return statistics.fmean(seconds) if seconds else None


@dataclass(frozen=True)
class Results:
    """A section on a road.

    Attributes:
        rows: name -> row; those of which no run was started are left out.
        teacher_run: the training or evaluation of the teacher.
        teacher: split -> its score.
    """

    grid: Grid
    road: str
    section: str
    rows: Mapping[str, Row]
    teacher_run: Run
    teacher: Mapping[str, float]

    @property
    def split(self) -> str:
        """The split whose scores are printed: ``test``, or ``val`` where there is no test split."""
        return list(self.grid.file["splits"])[-1]

    def mean(self, row: Row, split: str) -> float | None:
        """Mean score of a row."""
        scores = row.scores(split, self.grid.file["metric"])
        return statistics.fmean(scores.values()) if scores else None

    def difference(self, row: str, other: str = ALONE) -> PairedDifference | None:
        """Of two rows, seed by seed; None where they have no seed in common."""
        if not {row, other} <= set(self.rows):
            return None
        metric = self.grid.file["metric"]
        one, two = (self.rows[name].scores(self.split, metric) for name in (row, other))
        return paired_difference(one, two) if one.keys() & two.keys() else None

    def recovery(self, row: str) -> float | None:
        """Mean part of the gap to the teacher that a row closes, over the seeds that the student alone has too."""
        difference, teacher = self.difference(row), self.teacher.get(self.split)
        if difference is None or teacher is None:
            return None
        level = self.level(row)
        return recovery(level + difference.mean, level, teacher)

    def level(self, row: str) -> float:
        """Mean score of the student alone over the seeds that a row has too, one or more."""
        metric = self.grid.file["metric"]
        alone, scores = (self.rows[name].scores(self.split, metric) for name in (ALONE, row))
        return statistics.fmean(score for seed, score in alone.items() if seed in scores)


def read_results(
    grid: Grid, road: str, section: str, journal: Journal, output: Path, given: str | None = None
) -> Results:
    """The results of a section with the lengths and seeds of its grid.

    Args:
        output, given: see ``teacher_of``.
    """
    teacher = teacher_of(grid, road, section, given, None, output)
    seeds = range(1, grid.section(section)["seeds"] + 1)
    every = grid.runs(road, section, [1], teacher.weights)
    rows = {}
    for run in lengthened(every, every, journal):
        records = [x for x in journal.records(road=road, hash=run.hash) if x["seed"] in seeds]
        started = frozenset(x["seed"] for x in records if x["status"] == STARTED)
        ends = {seed: end for seed in sorted(started) if (end := journal.ended(road, run.hash, seed))}
        if started:
            rows[run.row] = Row(run, ends, started, step_ratio(journal, run))
    end = journal.ended(road, teacher.run.hash, teacher.run.seed) or {}
    scores = {split: end[split][grid.file["metric"]] for split in grid.file["splits"] if split in end}
    return Results(grid, road, section, rows, teacher.run, scores)


def other_runs(journal: Journal, shown: list[Results]) -> Iterator[tuple[Record, list[Record]]]:
    """The starts that no table has, each config once with all of its lines: tuning, other lengths, former settings."""
    known = {(x.road, row.run.hash, seed) for x in shown for row in x.rows.values() for seed in row.started}
    known |= {(x.road, x.teacher_run.hash, x.teacher_run.seed) for x in shown}
    left: dict[tuple[str, str], list[Record]] = {}
    for record in journal.records():
        if record["status"] != MEASURED and (record["road"], record["hash"], record["seed"]) not in known:
            left.setdefault((record["road"], record["hash"]), []).append(record)
    for records in left.values():
        yield records[0], records
