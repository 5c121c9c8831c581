"""Runs sorted for a comparison: teachers, students alone, distilled students; runs that differ in the seed alone are
one group.
"""

import filecmp
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd2.config.merging import leaves
from kd2.data.root import data_root, files_of
from kd2.distill import DataError
from kd2.report.logs import training_seconds
from kd2.report.run_folder import Run

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "distilled"
# Where a run computes and what it leaves: two runs that differ in nothing but these, and the seed, are of one group.
_APART = (
    "SEED", "OUTPUT_DIR", "VERSION", "CUDNN_BENCHMARK", "VIS_PERIOD", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE",
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS", "TEST.EVAL_PERIOD", "TEST.BEST", "DATASETS.ALLOW_OUTSIDE",
)  # fmt: skip
# Keys of MODEL that make no other model: with what it is filled, how it learns, what of its output counts.
_NO_MODEL = re.compile(
    r"MODEL\.(EMA\..+|(.+\.)?(DEVICE|CHANNELS_LAST|PRETRAINED|FREEZE_AT|DROPOUT|LABEL_SMOOTHING|PRIOR_PROB|"
    r"BATCH_SIZE_PER_IMAGE|POSITIVE_FRACTION|.*WEIGHTS?|.*LOSS.*|.*_(TEST|TRAIN)))"
)
_MOST_DIFFERENCES = 3  # that a name tells
_ABOUT = 0.95  # of a training time counts as that time


@dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds.

    Attributes:
        role: TEACHER, ALONE or DISTILLED.
        label: role or losses, and where several groups share these what sets this one apart.
    """

    role: str
    label: str
    runs: Sequence[Run]

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the first run."""
        return self.runs[0].config

    def scores(self, metric: str) -> dict[int, float]:
        """The score of every seed whose run is finished; a metric without a number (nothing to find) has none."""
        found = {run.seed: run.scores.get(metric, math.nan) for run in self.runs if run.finished}
        return {seed: x for seed, x in found.items() if math.isfinite(x)}

    @property
    def seconds(self) -> float | None:
        """Mean training time of the finished runs whose logs tell it."""
        found = [x for run in self.runs if run.finished and (x := training_seconds(run.rows)) is not None]
        return sum(found) / len(found) if found else None


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Teachers first, then students alone, then distilled ones, each in the order of their first run.

    A run with a loss that counts is a distilled student. One that is the teacher of another run (``KD.TEACHER.WEIGHTS``
    is its folder or a file there) is a teacher, and so is one whose model no distilled student has; the others are
    students alone. Without distilled students all are students alone.

    Raises:
        DataError: runs of other test data or classes; two runs of one config and one seed.
    """
    check_same_data(runs)
    found: dict[tuple, list[Run]] = {}
    for run, role in zip(runs, _roles(runs)):
        found.setdefault((role, _identity(run)), []).append(run)
    for group in found.values():
        _check_seeds(group)
    order = (TEACHER, ALONE, DISTILLED)
    entries = sorted(((role, group) for (role, _), group in found.items()), key=lambda entry: order.index(entry[0]))
    return [Group(role, _label(role, group[0], entries), group) for role, group in entries]


def baseline(group: Group, groups: Sequence[Group]) -> Group | None:
    """The student alone that a distilled group is measured against: its model, with as few other keys as possible."""
    alone = [g for g in groups if g.role == ALONE and _model(g.runs[0]) == _model(group.runs[0])]
    return min(alone, key=lambda g: len(differing(g.runs[0], group.runs[0])), default=None)


def teacher_of(group: Group, groups: Sequence[Group]) -> Group | None:
    """The teacher's own run: the one that holds ``KD.TEACHER.WEIGHTS``, or the only teacher there is."""
    teachers = [g for g in groups if g.role == TEACHER]
    holding = [g for g in teachers if taught_by(group, g)]
    return holding[0] if holding else teachers[0] if len(teachers) == 1 else None


def taught_by(group: Group, teacher: Group) -> bool:
    """Whether a run of ``teacher`` holds the weights of a distilled group's first teacher."""
    return any(_holds(run, group.runs[0].teachers[0]) for run in teacher.runs)


def at_equal_time(group: Group, groups: Sequence[Group]) -> Group | None:
    """The student alone that trained about as long as a distilled group, or the least bit longer; None without one."""
    if group.seconds is None:
        return None
    least = _ABOUT * group.seconds
    alone = [g for g in groups if g.role == ALONE and _model(g.runs[0]) == _model(group.runs[0])]
    return min((g for g in alone if (g.seconds or 0) >= least), key=lambda g: g.seconds or 0, default=None)


def differing(one: Run, other: Run) -> list[str]:
    """Keys outside of ``KD`` in which two runs differ, as far as that can change the student."""
    sides = [{k: v for k, v in _training(run).items() if not k.startswith("KD.")} for run in (one, other)]
    return [key for key in {**sides[0], **sides[1]} if sides[0].get(key) != sides[1].get(key)]


def check_same_data(runs: Sequence[Run]) -> None:
    """Raises DataError when two runs are not scored on the same data with the same classes; names both."""
    first = runs[0]
    for run in runs[1:]:
        names = [list(r.config["DATASETS"]["TEST"]) for r in (first, run)]
        if names[0] != names[1]:
            raise DataError(
                f"{run.folder} was scored on DATASETS.TEST {names[1]}, {first.folder} on {names[0]}; "
                "runs on other data cannot be compared"
            )
        for name in names[0]:
            entries = [r.config["DATASETS"]["CUSTOM"].get(name, {}) for r in (first, run)]
            for key in entries[0] | entries[1]:
                sides = [entry.get(key) for entry in entries]
                if not _same_source(*sides):
                    raise DataError(f"{run.folder}: {name}.{key} is {sides[1]!r}, in {first.folder} it is {sides[0]!r}")
    scored = [run for run in runs if run.scores]
    for run in scored[1:]:
        others = _classes(scored[0]) ^ _classes(run)
        if others:
            raise DataError(
                f"{run.folder} and {scored[0].folder} have other classes: only one of them has {sorted(others)[0]!r}"
            )


def _classes(run: Run) -> set[str]:
    """Classes by name, from the scores of boxes or pixels."""
    named = (name.rpartition("/")[2] for name in run.scores)
    return {name.partition("-")[2] for name in named if name.startswith(("AP-", "IoU-"))}


def _same_source(one: Any, other: Any) -> bool:
    """Whether two values of an entry mean the same: equal, by the content of both, or moved by the name."""
    if one == other or not isinstance(one, str) or not isinstance(other, str):
        return one == other
    paths = [os.path.join(data_root(), x) for x in (one, other)]
    if all(map(os.path.isfile, paths)):
        return filecmp.cmp(*paths, shallow=False)
    if all(map(os.path.isdir, paths)):
        return files_of(paths[0]) == files_of(paths[1])
    return os.path.basename(os.path.normpath(one)) == os.path.basename(os.path.normpath(other))


def _roles(runs: Sequence[Run]) -> list[str]:
    distilled = [run for run in runs if run.losses]
    models = [_model(run) for run in distilled]
    weights = [path for run in distilled for path in run.teachers]
    return [
        DISTILLED
        if run.losses
        else TEACHER
        if any(_holds(run, path) for path in weights) or distilled and _model(run) not in models
        else ALONE
        for run in runs
    ]


def _holds(run: Run, path: str) -> bool:
    """Whether ``path`` is the folder of a run or a file in it."""
    return bool(path) and os.path.realpath(run.folder) in {os.path.realpath(x) for x in (path, os.path.dirname(path))}


def _model(run: Run) -> dict[str, str]:
    named = {k: repr(v) for k, v in leaves(run.config) if k.startswith("MODEL.") and not _NO_MODEL.fullmatch(k)}
    return named | {"FRAMEWORK": repr(run.config.get("FRAMEWORK"))}


def _training(run: Run) -> dict[str, str]:
    """Every key that can change the student, with its value as a text; of a run without losses ``KD`` is none."""
    kept = {k: repr(v) for k, v in leaves(run.config) if k not in _APART and not k.startswith("DATASETS.CUSTOM.")}
    return kept if run.losses else {k: v for k, v in kept.items() if not k.startswith("KD.")}


def _identity(run: Run) -> tuple:
    return tuple(sorted(_training(run).items()))


def _check_seeds(runs: Iterable[Run]) -> None:
    seen: dict[int, Run] = {}
    for run in runs:
        if run.seed in seen:
            raise DataError(
                f"{seen[run.seed].folder} and {run.folder} are runs of one config and one seed, {run.seed}: "
                "leave one out"
            )
        seen[run.seed] = run


def _label(role: str, run: Run, entries: Sequence[tuple[str, Sequence[Run]]]) -> str:
    """The role or the losses, and the keys in which groups called alike differ."""
    name = _name(role, run)
    alike = [_training(group[0]) for other, group in entries if _name(other, group[0]) == name]
    own = _training(run)
    apart = [key for key in own if any(other.get(key) != own[key] for other in alike)]
    told = [f"{key.rpartition('.')[2]} {own[key]}" for key in apart[:_MOST_DIFFERENCES]]
    return f"{name}, {', '.join(told)}" if told else name


def _name(role: str, run: Run) -> str:
    return " + ".join(run.losses) if role == DISTILLED else role
