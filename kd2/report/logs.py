"""What a run has logged, on every road: ``metrics.json`` of Detectron2, ``csv/version_*/metrics.csv`` of Lightning."""

import csv
import glob
import json
import os
from collections.abc import Iterator

from kd2.distill import DataError, nearest

Row = dict[str, float]


def read_log(folder: str) -> list[Row]:
    """The lines of a log in the order of ``step``, the iteration that was done last, counted from 0.

    A resumed run repeats steps; where its parts overlap the later one counts. A line that a running training has
    written half is left out.

    Raises:
        DataError: no log, or one that is damaged.
    """
    parts = sorted(glob.glob(os.path.join(glob.escape(folder), "csv", "version_*", "metrics.csv")), key=_version)
    plain = os.path.join(folder, "metrics.json")
    if not parts and not os.path.isfile(plain):
        raise DataError(f"{folder}: no log csv/version_*/metrics.csv or metrics.json")
    rows: list[Row] = []
    for part in [_csv_rows(path) for path in parts] or [_json_rows(plain)]:
        for number, row in enumerate(part):
            if rows and (row["step"] < rows[-1]["step"] or not number and row["step"] == rows[-1]["step"]):
                rows = [earlier for earlier in rows if earlier["step"] < row["step"]]
            rows.append(row)
    return rows


def read_curve(folder: str, metric: str, axis: str) -> tuple[list[float], list[float]]:
    """Values of ``metric`` over ``axis`` (``step``, ``epoch``) in the log of a run.

    Raises:
        DataError: see ``read_log``; no value of the metric.
    """
    rows = read_log(folder)
    points = {row["step"]: (row[axis], row[metric]) for row in rows if metric in row and axis in row}
    if not points:
        known = {name for row in rows for name in row}
        raise DataError(f"{folder}: its log has no {metric} over {axis}; {nearest(metric, sorted(known))}")
    xs, ys = zip(*points.values())
    return list(xs), list(ys)


def training_seconds(rows: list[Row]) -> float | None:
    """Seconds of training, evaluations aside: ``time``, those of a step, times the steps of each line of a log.

    None where the log has no times.
    """
    timed = {row["step"]: row["time"] for row in rows if "time" in row}
    starts = [-1.0, *timed]
    return sum((step - start) * x for start, (step, x) in zip(starts, timed.items())) if timed else None


def _version(path: str) -> tuple[int, str]:
    number = path.split("version_")[-1].split(os.sep)[0]
    return (int(number) if number.isdecimal() else -1), path


def _csv_rows(path: str) -> Iterator[Row]:
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        yield from _numbers(path, csv.DictReader(file), "step")


def _json_rows(path: str) -> Iterator[Row]:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")
    whole = (json.loads(line) for line in lines[:-1] if line.strip())
    yield from _numbers(path, whole, "iteration")


def _numbers(path: str, lines: Iterator[dict], step: str) -> Iterator[Row]:
    """The numbers of every line that has a step, by name."""
    try:
        for line in lines:
            row = {name: float(x) for name, x in line.items() if name != step and x not in ("", None)}
            if line.get(step) not in ("", None):
                yield row | {"step": float(line[step])}
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{path}: a line of the log holds no numbers by name ({error})") from None
