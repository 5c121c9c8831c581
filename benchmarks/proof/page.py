"""The results of a data set as Markdown, between the marks that ``docs/results.md`` has for it."""

import contextlib
import fcntl
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.blocks import replaced
from benchmarks.proof.grid import ALONE, MAIN, TEACHER, Grid
from benchmarks.proof.journal import FINISHED, STARTED, Journal
from benchmarks.proof.results import Results, Row, other_runs, read_results
from kd2.cli import table
from kd2.report.statistics import PairedDifference
from kd2.runs.files import write_atomically

SAME = "not distinguishable from the student alone"

_COLUMNS = ("gain over the student alone", "recovery", "time", "CPU s", "seeds", "verdict")


def write_page(grid: Grid, journal: Journal, output: Path, page: Path, given: str | None = None) -> None:
    """Write the tables of a data set into the page, as the blocks ``DATA, short`` and ``DATA`` of ``pays``.

    Several processes may do so at once, each for another data set: one after the other reads and writes.

    Args:
        output, given: see ``teacher_of``; ``output`` takes the file that is locked.

    Raises:
        ConfigError: the page lacks a mark.
    """
    with _locked(output / f"{page.name}.lock"):
        found = [
            read_results(grid, road, section, journal, output, given)
            for section in grid.file["sections"]
            for road in grid.roads(section)
        ]
        # The student alone is one run for many sections, and no table by itself but in the main one.
        shown = [x for x in found if x.section == MAIN and x.rows or set(x.rows) - {ALONE}]
        text = page.read_text()
        text = replaced(text, "pays", f"{grid.data}, short", short(grid, [x for x in shown if x.section == MAIN]))
        text = replaced(text, "pays", grid.data, whole(shown, journal, grid.file["metric"]))
        write_atomically(text, str(page))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is inside such a block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def short(grid: Grid, shown: list[Results]) -> str:
    """A row a default loss that a seed has beside the student alone: what it gains, how sure that is, what it costs."""
    rows = [
        [
            f"{row.run.row}, {results.road}",
            _step(results, row),
            *_gain(results, row, SAME),
            _ratio(results, row),
            _seeds(results, row),
        ]
        for results in shown
        for row in results.rows.values()
        if (row.run.default or row.run.longer) and results.difference(row.run.row)
    ]
    split = f", {shown[0].split} split" if shown else ""
    header = [
        f"{grid.file['title']}{split}",
        "alone -> distilled",
        "gain over the student alone",
        "recovery",
        "time",
        "seeds",
    ]
    return table(header, rows) if rows else ""


def whole(shown: list[Results], journal: Journal, metric: str) -> str:
    """Every section and road, the claims, and whatever else was started."""
    parts = [
        part
        for results in shown
        for part in (_title(results), _rows(results), _unchanged(results, shown), _unfinished(results.rows.values()))
    ]
    claims = [_claim(results) for results in shown if "claim" in results.grid.section(results.section)]
    if claims:
        parts += ["Claims of the papers:", table(["claim", "published", "ours", "verdict"], claims)]
    return "\n\n".join(part for part in (*parts, _others(journal, metric, shown)) if part)


def _title(results: Results) -> str:
    section, row = results.grid.section(results.section), next(iter(results.rows.values()))
    name = section.get("title", results.grid.file["title"])
    option = "" if results.section == MAIN else f" --variant {results.section}"
    command = f"`python benchmarks/pays.py --data {results.grid.data} --road {results.road}{option}`"
    return f"**{name}, {results.road}**, {row.run.iterations} iterations, {command}:"


def _rows(results: Results) -> str:
    splits = list(reversed(results.grid.file["splits"]))
    published = ["published"] if any(row.run.published for row in results.rows.values()) else []
    header = ["", *published, *splits, *_COLUMNS]
    scores = [_number(results.teacher.get(split)) for split in splits]
    rows = [[TEACHER, *[""] * len(published), *scores, *[""] * len(_COLUMNS)]]
    for name, row in results.rows.items():
        difference = results.difference(name) if name != ALONE else None
        rows.append(
            [
                name,
                *[row.run.published] * len(published),
                *(_number(results.mean(row, split)) for split in splits),
                *_gain(results, row),
                _ratio(results, row),
            ]
            + [_number(row.cpu_seconds, 0), _seeds(results, row), _verdict(difference)]
        )
    return table(header, rows)


def _step(results: Results, row: Row) -> str:
    """From the student alone to a row, over the seeds that both have."""
    difference, level = results.difference(row.run.row), results.level(row.run.row)
    assert difference is not None, "a row of the short table has a seed"
    return f"{_number(level)} -> {_number(level + difference.mean)}"


def _seeds(results: Results, row: Row) -> str:
    """How many runs have a score, of how many that were started."""
    started, scored = len(row.started), len(row.scores(results.split, results.grid.file["metric"]))
    return str(started) if scored == started else f"{scored} of {started}"


def _unchanged(results: Results, shown: list[Results]) -> str:
    """Below a variant, what its losses gain in the main section."""
    if results.section == MAIN or "claim" in results.grid.section(results.section):
        return ""
    main = next((x for x in shown if (x.section, x.road) == (MAIN, results.road)), None)
    found = {name: main.difference(name) for name in results.rows if name != ALONE} if main else {}
    gains = [f"{name} {interval(difference)}" for name, difference in found.items() if difference]
    if main is None or not gains:
        return ""
    return f"The unchanged pair, {main.rows[ALONE].run.iterations} iterations: {', '.join(gains)}."


def _gain(results: Results, row: Row, same: str = "") -> tuple[str, str]:
    """Difference to the student alone with its interval, and recovery; ``same`` follows an interval that holds 0."""
    if row.run.row == ALONE or (difference := results.difference(row.run.row)) is None:
        return "", ""
    part = results.recovery(row.run.row)
    told = interval(difference)
    if same and difference.interval and not difference.distinguishable:
        told += f", {same}"
    return told, "" if part is None else f"{round(100 * part)} %"


def interval(difference: PairedDifference) -> str:
    """``+5.8 [+4.1, +7.5]``, or the mean alone where there is no interval."""
    ends = difference.interval
    return f"{difference.mean:+.1f}" + (f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if ends else "")


def _verdict(difference: PairedDifference | None) -> str:
    if difference is None:
        return ""
    if difference.interval is None:
        return "one seed tells nothing"
    return ("above" if difference.mean > 0 else "below") if difference.distinguishable else SAME


def _ratio(results: Results, row: Row) -> str:
    if row.run.longer and ALONE in results.rows:
        return f"{row.run.iterations / results.rows[ALONE].run.iterations:.2f}"
    return "" if row.step_ratio is None else f"{row.step_ratio:.2f}"


def _claim(results: Results) -> list[str]:
    """A claim: it holds where every pair's interval lies above 0, does not where one lies below."""
    section = results.grid.section(results.section)
    pairs = [(one, two, results.difference(one, two)) for one, two in section["pairs"]]
    ours = [f"{one} - {two}: {interval(found) if found else 'not run'}" for one, two, found in pairs]
    known = [found for _, _, found in pairs if found is not None and found.distinguishable]
    if any(found.mean < 0 for found in known):
        verdict = "does not hold"
    else:
        verdict = "holds" if len(known) == len(pairs) else "cannot be told"
    return [f"{section['claim']} ({results.road})", section["published"], "; ".join(ours), verdict]


def _unfinished(rows: Iterable[Row]) -> str:
    """The runs of a table that were started and have no score, with the reason."""
    told = [
        f"{row.run.row}, seed {seed}: {row.ends.get(seed, {}).get('error', 'ended by a signal, or still running')}"
        for row in rows
        for seed in row.unfinished
    ]
    return f"Started, without a score: {'; '.join(told)}." if told else ""


def _others(journal: Journal, metric: str, shown: list[Results]) -> str:
    rows = []
    for first, records in other_runs(journal, shown):
        ends = [x for x in records if x["status"] == FINISHED]
        metrics = [x["val"][metric] for x in ends if x["val"].get(metric) is not None]
        mean = _number(statistics.fmean(metrics)) if metrics else ""
        seeds = sorted({x["seed"] for x in records if x["status"] == STARTED})
        about = [first["row"], first["road"], first["section"], first["iterations"], " ".join(map(str, seeds))]
        rows.append([*about, len(ends), mean, first.get("commit", "")])
    header = ["row", "road", "section", "iterations", "seeds started", "finished", "val", "commit"]
    return f"Other runs that were started, former settings among them:\n\n{table(header, rows)}" if rows else ""


def _number(x: float | None, digits: int = 1) -> str:
    return "" if x is None else f"{x:.{digits}f}"
