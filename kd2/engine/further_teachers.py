"""Several teachers: each teaches every loss whose tap it has, and the classes that it knows."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from kd2.distill import (
    ConfigError,
    FeatureSpec,
    LossConfig,
    OtherTeacher,
    RunTeacher,
    SharedClasses,
    Tap,
    Taps,
    Teacher,
    naming,
    on_students_grids,
    shared_channels,
)
from kd2.engine.built_model import BuiltModel
from kd2.engine.proposals import taps_heads
from kd2.losses import build_losses, class_losses

Blocks = Mapping[str, Mapping[str, Any]]
Specs = dict[str, list[FeatureSpec]]
# What a batch tells of one pair of student and teacher.
_OF_FIRST = {"coding", "proposals"}


@dataclass(frozen=True)
class FurtherTeacher:
    """A model that teaches beside the first one.

    Attributes:
        model: built, with its weights and class names.
        run: (model, batch): its forward pass.
        name: what its losses are told apart by, ``LOSS_NAME`` in the log; ``key`` is its config key, for errors.
        weight: what WEIGHT or SHARE of every loss is multiplied by for it.
    """

    model: BuiltModel
    run: RunTeacher
    name: str
    key: str
    weight: float = 1.0


def first_losses(
    first: BuiltModel, taps: Taps, blocks: Blocks, student: BuiltModel, specs: Specs, others: Sequence[Taps]
) -> tuple[dict[str, nn.Module], dict[str, LossConfig]]:
    """The losses that the first one of several teachers teaches, by the names of their blocks.

    It leaves out a loss whose tap it lacks when one of the others has it. Scores are compared by the names of classes
    as far as both sides have names.

    Args:
        taps, others: probed, of the first teacher and of the others.

    Raises:
        ConfigError: see ``further_losses``; a loss that compares more than scores, of other classes than the student's.
    """
    mine = {
        name: block
        for name, block in blocks.items()
        if block.get("TAP", "fpn") in taps.specs or not any(block.get("TAP", "fpn") in t.specs for t in others)
    }
    if not mine:
        raise ConfigError(f"KD.TEACHER: none of its taps ({', '.join(taps.specs)}) is one of a loss of KD.LOSSES")
    if not (student.names and first.names):
        return build_losses(mine, specs, on_students_grids(taps.specs, specs))
    losses, configs = _losses(first, "KD.TEACHER", taps, mine, student, specs)
    for name, config in configs.items():
        if config.shared is not None and _needs_first(losses[name]):
            raise ConfigError(
                f"KD.TEACHER: KD.LOSSES.{name} compares more than scores; expected a teacher of the student's classes, "
                "in their order"
            )
    return losses, configs


def further_losses(
    further: FurtherTeacher, taps: Taps, blocks: Blocks, student: BuiltModel, specs: Specs
) -> tuple[OtherTeacher, dict[str, nn.Module], dict[str, LossConfig]]:
    """The teacher, and the losses that it teaches, with adapters of their own, under ``BLOCK_NAME``.

    A loss that compares classes one by one sees those that both sides know, by their names.

    Args:
        taps: probed, of the teacher.
        specs: of the student's taps.

    Raises:
        ConfigError: no loss has one of its taps; classes that have no name in common; a tap or a loss that needs the
            first teacher; see ``build_losses``.
    """
    if taps_heads(further.model.taps):
        raise ConfigError(
            f"{further.key}: its taps ({further.model.taps_key}) have one in roi_heads, which see the student's "
            "proposals in KD.TEACHER alone; give it TAPS without"
        )
    mine = {name: block for name, block in blocks.items() if block.get("TAP", "fpn") in taps.specs}
    if not mine:
        raise ConfigError(f"{further.key}: none of its taps ({', '.join(taps.specs)}) is one of a loss of KD.LOSSES")
    losses: dict[str, nn.Module] = {}
    configs: dict[str, LossConfig] = {}
    built, found = _losses(further.model, further.key, taps, mine, student, specs)
    for name, config in found.items():
        alone = _needs_first(built[name])
        if alone:
            raise ConfigError(
                f"{further.key}: KD.LOSSES.{name} needs {', '.join(sorted(alone))} of the batch, known of KD.TEACHER "
                f"alone; give it TAPS without {config.tap}"
            )
        schedule = replace(config.schedule, weight=further.weight * config.schedule.weight)
        own = f"{name}_{further.name}"
        if own in blocks:
            raise ConfigError(f"KD.LOSSES.{own}: {further.key} teaches a loss of that name; choose another name")
        losses[own] = built[name]
        configs[own] = replace(config, schedule=schedule, teacher=further.name)
    return OtherTeacher(Teacher(further.model.module, taps), further.run, further.name), losses, configs


def _losses(
    teacher: BuiltModel, key: str, taps: Taps, blocks: Blocks, student: BuiltModel, specs: Specs
) -> tuple[dict[str, nn.Module], dict[str, LossConfig]]:
    """The losses of blocks between the student and one teacher; those over classes see the ones that both know."""
    losses: dict[str, nn.Module] = {}
    configs: dict[str, LossConfig] = {}
    for name, block in blocks.items():
        shared, sides = None, (specs, on_students_grids(taps.specs, specs))
        if class_losses({name: block}):
            with naming(f"{key}: KD.LOSSES.{name}"):
                shared, sides = _narrowed(student, teacher, block.get("TAP", "fpn"), *sides)
        of_shared = naming(f"{key}, of the classes that it shares with the student")
        with of_shared if shared else contextlib.nullcontext():
            built, config = build_losses({name: {"TYPE": name, **block}}, *sides)
        losses[name], configs[name] = built[name], replace(config[name], shared=shared)
    return losses, configs


def _needs_first(loss: nn.Module) -> set[str]:
    return _OF_FIRST & set(getattr(loss, "needs", ()))


def _kind(student: BuiltModel, tap: str) -> str:
    """The kind of classes that the scores at a tap are of. A panoptic model has two: its pixels' below sem_seg_head."""
    if len(student.classes) < 2:
        return next(iter(student.classes), "things")
    paths = [found.path for found in map(Tap.parse, student.taps) if found.alias == tap]
    return "stuff" if any("sem_seg_head" in path for path in paths) else "things"


def _narrowed(
    student: BuiltModel, teacher: BuiltModel, tap: str, specs: Specs, teacher_specs: Specs
) -> tuple[SharedClasses | None, tuple[Specs, Specs]]:
    """What picks the shared classes of two sides of a tap, None where they are the same, and the specs behind it."""
    kind = _kind(student, tap)
    names, theirs = list(student.names.get(kind, ())), list(teacher.names.get(kind, ()))
    key, count = teacher.classes.get(kind, ("its classes", 0))
    if theirs and len(theirs) != count:
        raise ConfigError(f"{key} of the teacher is {count}, {teacher.names_key} has {len(theirs)} names")
    if names == theirs and names:
        return None, (specs, teacher_specs)
    first, second = shared_channels((names, specs[tap][0].channels), (theirs, teacher_specs[tap][0].channels))
    sides = tuple(
        {**side, tap: [replace(spec, channels=len(index)) for spec in side[tap]]}
        for side, index in ((specs, first), (teacher_specs, second))
    )
    return SharedClasses(first, second), (sides[0], sides[1])
