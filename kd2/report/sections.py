"""The sections of a comparison as plain tables: what stands in the page, before it is set."""

from collections.abc import Sequence
from dataclasses import dataclass

from kd2.distill import DataError, nearest
from kd2.report.groups import ALONE, DISTILLED, TEACHER, Group, at_equal_time, baseline, differing, teacher_of
from kd2.report.run_folder import Run, score_kind
from kd2.report.statistics import PairedDifference, paired_difference, recovery

_NONE = "-"  # a cell without a value


@dataclass(frozen=True)
class Section:
    """A heading, sentences, a table, pictures.

    Attributes:
        header, rows: of the table, as texts; no table without a header.
        pictures: (caption, path relative to the page).
    """

    title: str
    text: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[tuple[str, str]] = ()


def headline(runs: Sequence[Run], wanted: str = "") -> str:
    """The metric that the comparison is about: ``wanted``, or the first of the first run's scores.

    Raises:
        DataError: no run has been evaluated; none has ``wanted``.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    if not names:
        raise DataError(f"{runs[0].folder} and all others hold no evaluation yet: there is nothing to compare")
    if wanted and wanted not in names:
        raise DataError(f"--metric: no run has {wanted}; {nearest(wanted, names)}")
    return wanted or next(name for name in names if score_kind(name) == "total")


def difference(group: Group, other: Group | None, metric: str) -> PairedDifference | None:
    """How much more a distilled group has than a student alone; None without a seed in both."""
    if other is None or not group.scores(metric).keys() & other.scores(metric).keys():
        return None
    return paired_difference(group.scores(metric), other.scores(metric))


def recovered(group: Group, groups: Sequence[Group], metric: str) -> float | None:
    """Recovery of a distilled group by the means over seeds; None without a student alone or a better teacher."""
    sides = [group, baseline(group, groups), teacher_of(group, groups)]
    means = [None if side is None else mean(side, metric) for side in sides]
    return None if None in means else recovery(*means)


def mean(group: Group, metric: str) -> float | None:
    """Mean of a score over the seeds; None where no finished run has it."""
    scores = group.scores(metric)
    return sum(scores.values()) / len(scores) if scores else None


def worth(groups: Sequence[Group], metric: str) -> Section:
    """What distillation was worth: a row a group."""
    header = ["group", metric, "more than the student alone", "recovery", "iterations", "training", "runs"]
    rows = [_worth_row(group, groups, metric) for group in groups]
    timed = [(g, other) for g in groups if g.role == DISTILLED and (other := at_equal_time(g, groups))]
    text = [
        f"{g.label} and {other.label} at equal wall-clock time ({_duration(g.seconds)}, {_duration(other.seconds)}): "
        f"{_words(difference(g, other, metric))}."
        for g, other in timed
    ]
    untimed = [g for g in groups if g.role == DISTILLED and not at_equal_time(g, groups)]
    for reason, some in (
        ("No student alone trained as long as", [g.label for g in untimed if g.seconds is not None]),
        ("The logs tell no training time of", [g.label for g in untimed if g.seconds is None]),
    ):
        if some:
            text.append(f"{reason} {', '.join(some)}: there is no comparison at equal wall-clock time.")
    for group in groups:
        other = baseline(group, groups) if group.role == DISTILLED else None
        apart = differing(other.runs[0], group.runs[0]) if other else []
        if apart:
            text.append(f"{group.label} and its student alone differ in {', '.join(apart[:5])} too.")
    return Section("What distillation was worth", text, header, rows)


def scores(groups: Sequence[Group], kind: str, title: str) -> Section | None:
    """A row a metric of this kind (``total``, ``size``, ``class``), a column a group; None without such metrics."""
    names = list(dict.fromkeys(name for g in groups for run in g.runs for name in run.scores))
    names = [name for name in names if score_kind(name) == kind]
    rows = [[name, *(_score_cell(group, groups, name) for group in groups)] for name in names]
    return Section(title, (), ["", *(g.label for g in groups)], rows) if rows else None


def list_of_runs(groups: Sequence[Group], metric: str) -> Section:
    """Every run: its folder, seed, score and how far it is. Scores of running ones count nowhere else."""
    rows = [
        [run.folder, group.label, str(run.seed), _number(run.scores.get(metric)), run.state]
        for group in groups
        for run in group.runs
    ]
    return Section("Runs", (), ["folder", "group", "seed", metric, "state"], rows)


def verdict(groups: Sequence[Group], metric: str) -> list[str]:
    """A sentence a distilled group; without one, what is missing."""
    told = []
    for group in (g for g in groups if g.role == DISTILLED):
        other, teacher = baseline(group, groups), teacher_of(group, groups)
        found = difference(group, other, metric)
        if found is None:
            told.append(f"{group.label}: {_no_difference(group, other)}, so no difference.")
            continue
        told.append(f"{group.label} {_finding(found)}: {metric} {found}.")
        means = [mean(g, metric) for g in (teacher, other) if g]
        if teacher and None not in means and means[0] <= means[1]:
            told.append(f"The teacher ({means[0]:.1f}) is no better than the student alone ({means[1]:.1f}).")
    return told or ["No run has a distillation loss that counts: there is no difference to tell."]


def _no_difference(group: Group, other: Group | None) -> str:
    """Why a distilled group cannot be set against a student alone."""
    seeds = [sorted(run.seed for run in g.runs if run.finished) for g in (group, other) if g]
    if not seeds[0]:
        return "no run of it is finished"
    if other is None or not seeds[1]:
        return "no finished student alone of its model is among the runs"
    return f"no seed in common with the student alone (seeds {seeds[0]} and {seeds[1]})"


def _finding(found: PairedDifference) -> str:
    if found.interval is None:
        order = "above" if found.mean > 0 else "below" if found.mean < 0 else "level with"
        return f"ends {order} the student alone on one seed"
    if not found.distinguishable:
        return "is not distinguishable from the student alone"
    return f"is {'better' if found.mean > 0 else 'worse'} than the student alone"


def _worth_row(group: Group, groups: Sequence[Group], metric: str) -> list[str]:
    distilled = group.role == DISTILLED
    found = difference(group, baseline(group, groups), metric) if distilled else None
    part = recovered(group, groups, metric) if distilled else None
    finished = [run for run in group.runs if run.finished]
    runs = f"{len(finished)} finished" + (f", {len(group.runs) - len(finished)} not" if finished != group.runs else "")
    return [
        group.label,
        _number(mean(group, metric)),
        _words(found) if found else _NONE,
        f"{100 * part:.0f} %" if part is not None else _NONE,
        str(group.config["SOLVER"]["MAX_ITER"]),
        _duration(group.seconds),
        runs,
    ]


def _score_cell(group: Group, groups: Sequence[Group], metric: str) -> str:
    value = _number(mean(group, metric))
    found = difference(group, baseline(group, groups), metric) if group.role == DISTILLED else None
    if found is None:
        return value
    between = f", {found.interval[0]:+.1f} to {found.interval[1]:+.1f}" if found.interval else ""
    unsure = "" if found.distinguishable or found.interval is None else ", not distinguishable"
    return f"{value} ({found.mean:+.1f}{between}{unsure})"


def _words(found: PairedDifference | None) -> str:
    return str(found) if found else "no seed in common"


def _number(value: float | None) -> str:
    return _NONE if value is None or value != value else f"{value:.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not logged"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min" if seconds < 36000 else _hours(seconds)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"


__all__ = ["ALONE", "DISTILLED", "TEACHER", "Section", "headline", "list_of_runs", "scores", "verdict", "worth"]
