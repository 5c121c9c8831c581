"""The sections of a comparison as plain tables: what stands in the page, before it is set."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from kd2.distill import DataError, nearest
from kd2.report.groups import (
    ALONE,
    DISTILLED,
    TEACHER,
    Group,
    at_equal_time,
    baseline,
    differing,
    taught_by,
    teacher_of,
)
from kd2.report.run_folder import Run, score_kind
from kd2.report.statistics import PairedDifference, paired_difference, recovery

_NONE = "-"  # a cell without a value
_GAP = 1.0  # points of a score that a teacher is better by, so that a part of them says something
_EQUAL = 1.2  # times a training time is no equal time any more


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
    """Recovery of a distilled group by the means over the seeds that it shares with its student alone.

    None without a student alone, a shared seed or a teacher that is better by a point: parts of less are chance.
    """
    other, teacher = baseline(group, groups), teacher_of(group, groups)
    if other is None or teacher is None:
        return None
    shared = group.scores(metric).keys() & other.scores(metric).keys()
    means = [mean(group, metric, shared), mean(other, metric, shared), mean(teacher, metric)]
    return None if None in means or means[2] - means[1] < _GAP else recovery(*means)


def mean(group: Group, metric: str, seeds: Collection[int] | None = None) -> float | None:
    """Mean of a score over the seeds, or over some of them; None where no finished run has it."""
    scores = [x for seed, x in group.scores(metric).items() if seeds is None or seed in seeds]
    return sum(scores) / len(scores) if scores else None


def worth(groups: Sequence[Group], metric: str) -> Section:
    """What distillation was worth: a row a group."""
    header = ["group", metric, "more than the student alone", "recovery", "iterations", "training", "runs"]
    rows = [_worth_row(group, groups, metric) for group in groups]
    timed = [(g, other) for g in groups if g.role == DISTILLED and (other := at_equal_time(g, groups))]
    text = [
        f"{g.label} and {other.label} {_at_time(g, other)} ({_duration(g.seconds)}, {_duration(other.seconds)}): "
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
    text += [line for g in groups if g.role == DISTILLED for line in _reservations(g, groups, metric)]
    return Section("What distillation was worth", text, header, rows)


def _reservations(group: Group, groups: Sequence[Group], metric: str) -> Iterator[str]:
    """What else a reader has to know of the difference and the recovery of a distilled group."""
    other, teacher = baseline(group, groups), teacher_of(group, groups)
    apart = differing(other.runs[0], group.runs[0]) if other else []
    if apart:
        yield f"{group.label} and its student alone differ in {', '.join(apart[:5])} too."
    own, alone = (set(g.scores(metric)) if g else set() for g in (group, other))
    if own & alone and own != alone:
        yield (
            f"{group.label} and its student alone share the seeds {_listed(own & alone)}, of which difference and "
            f"recovery are; {_listed(own ^ alone)} only one of them has, which counts in its own mean."
        )
    if teacher and not taught_by(group, teacher) and recovered(group, groups, metric) is not None:
        yield (
            f"The recovery of {group.label} is told by {teacher.runs[0].folder}, the only teacher here; its "
            f"KD.TEACHER.WEIGHTS is {group.runs[0].teachers[0]!r}."
        )


def _at_time(group: Group, other: Group) -> str:
    longer = (other.seconds or 0) > _EQUAL * (group.seconds or 0)
    return "that trained longer" if longer else "at equal wall-clock time"


def _listed(seeds: Collection[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


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
        if teacher and None not in means and means[0] < means[1] + _GAP:
            order = "hardly" if means[0] > means[1] else "no"
            told.append(f"The teacher ({means[0]:.1f}) is {order} better than the student alone ({means[1]:.1f}).")
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
