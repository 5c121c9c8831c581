"""Curves of finished and running trainings, from the logs in their output folders."""

import math
import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from kd2.report.logs import read_curve

_FAR = 30  # times the smallest value


def draw_curves(folders: Sequence[str], metric: str, axis: str, path: str) -> list[tuple[str, float, float]]:
    """One line a run, named by its folder, into the image ``path``; returns (name, last value, best value) of each.

    Raises:
        DataError: see ``read_curve``.
    """
    curves = [(os.path.basename(os.path.normpath(folder)), *read_curve(folder, metric, axis)) for folder in folders]
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    curve_figure(curves, metric, axis).savefig(path, dpi=120)
    return [(name, ys[-1], max(ys)) for name, _, ys in curves]


def curve_figure(
    curves: Sequence[tuple[str, list[float], list[float]]], metric: str, axis: str, names: Sequence[str] = ()
) -> Figure:
    """One line a curve: its name, places on the axis, values. Curves of one name are alike.

    Values above 0 that lie far apart stand on a logarithmic axis.

    Args:
        names: of all figures that are to have one color a name, in their order; empty: those of the curves.
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel=axis, ylabel=metric)
    values = [y for _, _, ys in curves for y in ys if math.isfinite(y)]
    if values and 0 < _FAR * min(values) < max(values):
        axes.set_yscale("log")
    names = list(dict.fromkeys([*names, *(name for name, _, _ in curves)]))
    for name, xs, ys in curves:
        number = names.index(name)
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3], "marker": "."}
        axes.plot(xs, ys, label=name, **style)
    axes.grid(alpha=0.3)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize="small")
    return figure
