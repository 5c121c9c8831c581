"""Further teachers beside the first one: each teaches every loss whose tap it has."""

from collections.abc import Mapping
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
    losses: dict[str, nn.Module] = {}
    configs: dict[str, LossConfig] = {}
    for name, block in blocks.items():
        tap = block.get("TAP", "fpn")
        if tap not in taps.specs:
            continue
        shared, sides = None, (specs, on_students_grids(taps.specs, specs))
        if class_losses({name: block}):
            with naming(f"{further.key}: KD.LOSSES.{name}"):
                shared, sides = _narrowed(student, further.model, tap, *sides)
        built, config = build_losses({name: {"TYPE": name, **block}}, *sides)
        alone = _OF_FIRST & set(getattr(built[name], "needs", ()))
        if alone:
            raise ConfigError(
                f"{further.key}: KD.LOSSES.{name} needs {', '.join(sorted(alone))} of the batch, known of KD.TEACHER "
                f"alone; give it TAPS without {tap}"
            )
        schedule = replace(config[name].schedule, weight=further.weight * config[name].schedule.weight)
        own = f"{name}_{further.name}"
        if own in blocks:
            raise ConfigError(f"KD.LOSSES.{own}: {further.key} teaches a loss of that name; choose another name")
        losses[own] = built[name]
        configs[own] = replace(config[name], schedule=schedule, teacher=further.name, shared=shared)
    if not losses:
        raise ConfigError(f"{further.key}: none of its taps ({', '.join(taps.specs)}) is one of a loss of KD.LOSSES")
    return OtherTeacher(Teacher(further.model.module, taps), further.run, further.name), losses, configs


def _narrowed(
    student: BuiltModel, teacher: BuiltModel, tap: str, specs: Specs, teacher_specs: Specs
) -> tuple[SharedClasses | None, tuple[Specs, Specs]]:
    """What picks the shared classes of two sides of a tap, None where they are the same, and the specs behind it."""
    kind = next(iter(student.classes))
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
