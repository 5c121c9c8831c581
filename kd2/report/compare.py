"""Runs become one page: scores, what distillation was worth, costs, curves and pictures."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from matplotlib.figure import Figure

from kd2 import engine
from kd2.data.root import outside_allowed
from kd2.distill import USER_ERRORS, DataError
from kd2.report import seen
from kd2.report.cost import Cost, cost
from kd2.report.curves import curve_figure
from kd2.report.groups import ALONE, DISTILLED, Group, baseline, grouped
from kd2.report.logs import read_curve
from kd2.report.look import Pictures, look
from kd2.report.page import check_free, write_page, write_pictures
from kd2.report.run_folder import Run, is_score, read_run, score_kind
from kd2.report.sections import (
    Section,
    difference,
    headline,
    list_of_runs,
    mean,
    recovered,
    scores,
    verdict,
    worth,
)
from kd2.report.views import still
from kd2.runs.folder import CONFIG

_TRIED = 20  # records, for one with a picture that can be read
_COSTS = ("", "parameters (M)", "GFLOPs", "ms on the CPU", "ms on the GPU", "weights (MB)", "checkpoint (MB)")
_COST_WORDS = (
    "One image in the size of a test, pre- and postprocessing included (median). GFLOPs are 10^9 multiply-adds by "
    "fvcore's counter. A checkpoint also holds what training goes on from."
)


def compare(
    folders: Sequence[str],
    output: str,
    *,
    metric: str = "",
    title: str = "Comparison of runs",
    overwrite: bool = False,
    models: bool = True,
    images: int = 3,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write ``report.md``, ``report.html``, ``report.json`` and pictures, for TensorBoard too, into ``output``.

    Args:
        folders: OUTPUT_DIR of each run.
        metric: what the page is about; empty: the first score of the first run.
        overwrite: replace an earlier page there.
        models: whether to build the models, for costs and pictures of images; otherwise only logs are read.
        images: how many images are shown.
        notes: sentences for the end of the page.

    Returns:
        The content of ``report.json``.

    Raises:
        DataError: a folder that is not a run's, runs of other data or classes, nothing to compare.
        ConfigError: the output folder holds an earlier page, or cannot be written.
    """
    runs = [read_run(folder) for folder in dict.fromkeys(os.path.normpath(folder) for folder in folders)]
    metric, groups = headline(runs, metric), grouped(runs)
    check_free(output, overwrite)
    costs, troubles = _costs(groups) if models else ({}, [])
    notes = [*notes, *troubles]
    drawn = list(_curves(groups, metric))
    curves = len(drawn)
    if models:
        drawn += _images(groups, images, notes)
    pictures = write_pictures(output, drawn, overwrite)
    sections = [
        worth(groups, metric),
        scores(groups, "total", "Scores"),
        scores(groups, "size", "By size of the objects"),
        scores(groups, "class", "By class"),
        _cost_section(groups, costs),
        Section("Curves", pictures=pictures[:curves]) if curves else None,
        Section("Images", pictures=pictures[curves:]) if pictures[curves:] else None,
        list_of_runs(groups, metric),
        Section("Notes", notes) if notes else None,
    ]
    told = verdict(groups, metric)
    content = _content(groups, metric, costs, told, notes)
    write_page(output, title, told, [s for s in sections if s], content)
    return content


def _costs(groups: Sequence[Group]) -> tuple[dict[str, Cost], list[str]]:
    """The cost of each group's model by the group's label, and why some have none. Equal models are measured once."""
    found: dict[str, Cost] = {}
    notes: list[str] = []
    for group in groups:
        other = baseline(group, groups) if group.role == DISTILLED else None
        if other and other.label in found:
            found[group.label] = found[other.label]
            continue
        run = next((run for run in group.runs if run.finished), None)
        if run is None:
            continue
        try:
            found[group.label] = _cost_of(run)
        except USER_ERRORS as error:
            notes.append(f"No costs of {group.label}: {error}")
    return found, notes


def _cost_of(run: Run) -> Cost:
    options = ["OUTPUT_DIR", run.folder, "MODEL.DEVICE", "cpu"]
    experiment = engine.for_evaluation(os.path.join(run.folder, CONFIG), options)
    experiment.leave_unfilled()
    with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE):
        built = experiment.build_student()
        built.module.eval()
        experiment.load_weights(built.module, run.weights, "weights", partial=False)
        if experiment.cfg.FRAMEWORK == "timm":
            blank = (1, 3, experiment.cfg.INPUT.SIZE, experiment.cfg.INPUT.SIZE)
            return cost(built.module, lambda device: built.module(torch.zeros(blank, device=device)))
        still(experiment.cfg)
        records, batch_of = experiment.view(experiment.load_data("TRAIN")[0])
        batches = {"cpu": _first_readable(records, batch_of)}

        def run_on(device: torch.device) -> Any:
            if device.type not in batches:
                batches[device.type] = seen.moved(batches["cpu"], device)
            return experiment.predict(built.module, batches[device.type])

        return cost(built.module, run_on)


def _first_readable(records: list[dict], batch_of: Callable[[dict], Any]) -> Any:
    """The batch of the first of some records whose picture can be read; the error of the first where none can."""
    for record in records[:_TRIED]:
        with contextlib.suppress(DataError):
            return batch_of(record)
    return batch_of(records[0])


def _curves(groups: Sequence[Group], metric: str) -> Iterator[tuple[str, str, Figure]]:
    """The score and every loss over the iterations, where some run has logged more than one value."""
    names = [name for g in groups for run in g.runs for row in run.rows for name in row]
    losses = [name for name in dict.fromkeys(names) if name.startswith("loss_") or name == "total_loss"]
    for name in [metric, *losses]:
        curves = []
        for group in groups:
            for run in group.runs:
                try:
                    curves.append((group.label, *read_curve(run.folder, name, "step")))
                except DataError:
                    continue  # this run has no such number
        if any(len(xs) > 1 for _, xs, _ in curves):
            caption = f"{name} over iterations, a line a run."
            yield f"curve_{name}", caption, curve_figure(curves, name, "iteration", [group.label for group in groups])


def _images(groups: Sequence[Group], count: int, notes: list[str]) -> Pictures:
    """The pictures of the first finished distilled run beside its student alone; in the notes why there are none."""
    group = next((g for g in groups if g.role == DISTILLED and any(run.finished for run in g.runs)), None)
    if group is None or not count:
        notes.append("No pictures of images: no distilled run is finished.")
        return iter(())
    run = next(run for run in group.runs if run.finished)
    other = baseline(group, groups)
    alone = next((r.weights for r in (other.runs if other else []) if r.finished), "")
    # The run may have trained on a device that is not here.
    options = ["OUTPUT_DIR", run.folder] + ([] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"])
    try:
        return look(os.path.join(run.folder, CONFIG), options, count=count, weights=run.weights, alone=alone)
    except USER_ERRORS as error:
        notes.append(f"No pictures of images: {error}")
        return iter(())


def _cost_section(groups: Sequence[Group], costs: dict[str, Cost]) -> Section | None:
    if not costs:
        return None
    rows = []
    for group in (g for g in groups if g.label in costs):
        x = costs[group.label]
        size = next(os.path.getsize(run.weights) for run in group.runs if run.finished) / 1e6
        gpu = "-" if x.gpu_ms is None else f"{x.gpu_ms:.1f}"
        rows.append(
            [
                group.label,
                f"{x.parameters / 1e6:.2f}",
                f"{x.gflops:.2f}",
                f"{x.cpu_ms:.1f}",
                gpu,
                f"{x.megabytes:.1f}",
                f"{size:.1f}",
            ]
        )
    return Section("Costs", (f"{_COST_WORDS} CPU threads: {torch.get_num_threads()}.",), _COSTS, rows)


def _content(
    groups: Sequence[Group], metric: str, costs: dict[str, Cost], told: list[str], notes: list[str]
) -> dict[str, Any]:
    """The content of report.json."""
    return {
        "metric": metric,
        "verdict": told,
        "groups": [
            {
                "label": group.label,
                "role": group.role,
                "runs": [{"folder": r.folder, "seed": r.seed, "state": r.state} for r in group.runs],
                "iterations": group.config["SOLVER"]["MAX_ITER"],
                "seconds": group.seconds,
                "cost": asdict(costs[group.label]) if group.label in costs else None,
                "scores": {name: _score(group, groups, name) for name in _names(group)},
            }
            for group in groups
        ],
        "notes": notes,
    }


def _names(group: Group) -> list[str]:
    return list(dict.fromkeys(name for run in group.runs for name in run.scores))


def _score(group: Group, groups: Sequence[Group], name: str) -> dict[str, Any]:
    seeds = {str(seed): x for seed, x in group.scores(name).items()}
    found: dict[str, Any] = {"kind": score_kind(name), "mean": mean(group, name), "by_seed": seeds}
    if group.role != DISTILLED:
        return found
    more = difference(group, baseline(group, groups), name)
    told = None if more is None else asdict(more) | {"distinguishable": more.distinguishable, "words": str(more)}
    return found | {"more_than_alone": told, "recovery": recovered(group, groups, name)}


__all__ = ["ALONE", "DISTILLED", "compare", "is_score"]
