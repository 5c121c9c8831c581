"""Curves of finished and running trainings, read from the CSV logs in their output folders."""

import csv
import glob
import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from kd2.distill import DataError, nearest


def read_curve(folder: str, metric: str, axis: str) -> tuple[list[float], list[float]]:
    """Values of column ``metric`` over column ``axis`` (``step``, ``epoch``) of the logs ``folder/csv/version_*``.

    A resumed run has several logs; where they overlap the later one counts.

    Raises:
        DataError: no log, or no value of the metric in it.
    """
    logs = glob.glob(os.path.join(folder, "csv", "version_*", "metrics.csv"))
    if not logs:
        raise DataError(f"{folder}: no log csv/version_*/metrics.csv")
    points: dict[int, tuple[float, float]] = {}
    columns: set[str] = set()
    for path in sorted(logs, key=lambda p: int(p.split("version_")[-1].split(os.sep)[0])):
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        columns.update(*rows)
        found = {int(r["step"]): (float(r[axis]), float(r[metric])) for r in rows if r.get(metric) and r.get(axis)}
        points = {step: xy for step, xy in points.items() if not found or step < min(found)} | found
    if not points:
        raise DataError(f"{folder}: its log has no {metric} over {axis}; {nearest(metric, sorted(columns))}")
    xs, ys = zip(*(points[step] for step in sorted(points)))
    return list(xs), list(ys)


def draw_curves(folders: Sequence[str], metric: str, axis: str, path: str) -> list[tuple[str, float, float]]:
    """One line a run, named by its folder, into the image ``path``; returns (name, last value, best value) of each."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=axis, ylabel=metric)
    rows = []
    for number, folder in enumerate(folders):
        xs, ys = read_curve(folder, metric, axis)
        name = os.path.basename(os.path.normpath(folder))
        axes.plot(xs, ys, label=name, color=f"C{number % 10}", linestyle=("-", "--", ":")[number // 10 % 3], marker=".")
        rows.append((name, ys[-1], max(ys)))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    figure.savefig(path, dpi=120)
    return rows
