"""Losses: one published idea per file.

A file of this folder whose name does not begin with an underscore is a loss; its name is the ``TYPE`` in the config, and
its ``TERM`` is a module built as ``TERM(student_specs, teacher_specs, **options)``. The keyword-only arguments of its
constructor are the keys of its config block, in capitals, checked against their type hints.
"""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import nn

from kd2.distill import ConfigError, FeatureSpec, Schedule, LossConfig, nearest

_COMMON = {"TYPE": str, "TAP": str, "WEIGHT": float, "START_ITER": int, "RAMP_ITERS": int, "STOP_ITER": int}


def loss_types() -> list[str]:
    """The valid values of ``TYPE``."""
    return sorted(m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]) if m.name not in ("registry", "adapter", "logit_checks"))


def active_losses(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The blocks of ``KD.LOSSES`` that count: a loss of weight 0 is not built. Checks every block, active or not.

    Raises:
        ConfigError: an unknown type or key, a value of the wrong type, times in no order; names key, value and choices.
    """
    for name, block in blocks.items():
        _check_block(name, block)
    return {name: block for name, block in blocks.items() if block.get("WEIGHT", 1.0) != 0}


def build_losses(
    blocks: Mapping[str, Mapping[str, Any]],
    student: Mapping[str, list[FeatureSpec]],
    teacher: Mapping[str, list[FeatureSpec]],
) -> tuple[dict[str, nn.Module], dict[str, LossConfig]]:
    """Build the active losses of ``KD.LOSSES``.

    Args:
        blocks: name -> block; the loss is called ``loss_<name>``.
        student, teacher: what the probes saw, by tap alias.

    Returns:
        The modules, and the tap and schedule of each, by name.

    Raises:
        ConfigError: see ``active_losses``; an unknown tap; different numbers of maps on the two sides.
    """
    modules, configs = {}, {}
    for name, block in active_losses(blocks).items():
        key = f"KD.LOSSES.{name}"
        tap = block.get("TAP", "fpn")
        for side, specs in (("student", student), ("teacher", teacher)):
            if tap not in specs:
                raise ConfigError(f"{key}.TAP is {tap!r}, no tap of the {side} has that alias; {nearest(tap, specs)}")
        if len(student[tap]) != len(teacher[tap]):
            raise ConfigError(
                f"{key}.TAP {tap!r} has {len(student[tap])} maps in the student and {len(teacher[tap])} in the teacher"
            )
        options = {k.lower(): v for k, v in block.items() if k not in _COMMON}
        try:
            modules[name] = _loss_class(name, block)(student[tap], teacher[tap], **options)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
        configs[name] = LossConfig(tap, _schedule(block))
    return modules, configs


def _loss_class(name: str, block: Mapping[str, Any]) -> type[nn.Module]:
    kind = block.get("TYPE", name)
    if kind not in loss_types():
        key = f"KD.LOSSES.{name}.TYPE" if "TYPE" in block else f"KD.LOSSES.{name}"
        raise ConfigError(f"{key}: there is no loss {kind!r}; {nearest(kind, loss_types())}")
    return importlib.import_module(f"kd2.losses.{kind}").TERM


def _check_block(name: str, block: Any) -> None:
    if not isinstance(block, Mapping):
        raise ConfigError(f"KD.LOSSES.{name} is {block!r}, expected a block of keys such as WEIGHT and TAP")
    build = _loss_class(name, block).__init__
    options = [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints = get_type_hints(build)
    expected = _COMMON | {option.upper(): hints[option] for option in options}
    for key, value in block.items():
        where = f"KD.LOSSES.{name}.{key}"
        if key not in expected:
            raise ConfigError(f"{where}: no such key; {nearest(key, expected)}")
        _check_value(where, value, expected[key])
    _check_times(f"KD.LOSSES.{name}", _schedule(block))


def _schedule(block: Mapping[str, Any]) -> Schedule:
    return Schedule(*(block.get(k, d) for k, d in (("WEIGHT", 1.0), ("START_ITER", 0), ("RAMP_ITERS", 0), ("STOP_ITER", -1))))


def _check_times(where: str, schedule: Schedule) -> None:
    for key, iterations in (("START_ITER", schedule.start), ("RAMP_ITERS", schedule.ramp)):
        if iterations < 0:
            raise ConfigError(f"{where}.{key} is {iterations}, expected a number of iterations, 0 or more")
    if schedule.stop != -1 and schedule.stop <= schedule.start:
        raise ConfigError(
            f"{where}.STOP_ITER is {schedule.stop}, expected -1 (never) or an iteration after START_ITER, which is {schedule.start}"
        )


def _check_value(where: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where} is {value!r}; {nearest(value, get_args(hint))}")
        return
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r} ({type(value).__name__}), expected {_named(hint)}")


def _named(hint: Any) -> str:
    """A type or a union of types in words: ``int or list``."""
    return " or ".join("list" if kind is Sequence else kind.__name__ for kind in get_args(hint) or (hint,))
