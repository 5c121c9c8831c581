"""The registry of losses: from a block of ``KD.LOSSES`` to a module.

A loss is a module built as ``Loss(student_specs, teacher_specs, **options)``; ``docs/adding_a_loss.md`` states its
contract. ``register_loss`` gives it a name, which is the ``TYPE`` of a block. The keyword-only arguments of its
constructor are the keys of the block, in capitals, and their type hints say what the config may give them.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fvcore.common.registry import Registry
from torch import nn

from kd2.distill import ConfigError, FeatureSpec, LossConfig, Schedule, naming, nearest
from kd2.distill.values import CountOrZero, NonNegative, Positive, Range, check_value
from kd2.distill.weighting import LARGEST_GAP
from kd2.losses.options import defaults_of, options_of

_COMMON: dict[str, Any] = {
    "TYPE": str,
    "TAP": str,
    "WEIGHT": NonNegative,
    "SHARE": NonNegative,
    "CALIBRATE_ITERS": Annotated[int, Range(low=1, high=LARGEST_GAP)],
    "ADAPTER_LR": Positive,
    "START_ITER": CountOrZero,
    "RAMP_ITERS": CountOrZero,
    "STOP_ITER": Annotated[int, Range("-1 (never) or an iteration after START_ITER")],
}
# Iterations one after another in which the gradients of a share are measured first, see ``GradientShare``.
_CALIBRATE_ITERS = 10
_TIMES = (("START_ITER", 0), ("RAMP_ITERS", 0), ("STOP_ITER", -1))
Blocks = Mapping[str, Mapping[str, Any]]
Specs = Mapping[str, list[FeatureSpec]]
Loss = TypeVar("Loss", bound=type[nn.Module])


@dataclass(frozen=True)
class _Entry:
    """A name of the registry.

    Attributes:
        loss: the class.
        share: default of SHARE.
        adapter_lr: default of ADAPTER_LR beside a share.
        presets: options that have another default under this name.
    """

    loss: type[nn.Module]
    share: float
    adapter_lr: float
    presets: Mapping[str, Any]

    def strength(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """What a block says, or leaves to defaults, of how strongly the loss and its adapters learn."""
        if "WEIGHT" in block:
            usual = {"WEIGHT": block["WEIGHT"], "ADAPTER_LR": 1.0}
        else:
            usual = {"SHARE": self.share, "CALIBRATE_ITERS": _CALIBRATE_ITERS, "ADAPTER_LR": self.adapter_lr}
        return {key: block.get(key, value) for key, value in usual.items()}


class _LossRegistry(Registry):
    """fvcore's registry, with a name that is not the name of the class."""

    def add(self, name: str, entry: _Entry) -> None:
        if name in self:
            raise ConfigError(f"a loss {name!r} is registered already: {_where(self.get(name).loss)}")
        self._do_register(name, entry)


_LOSSES = _LossRegistry("LOSS")


def register_loss(
    name: str, default_share: float = 2.0, default_adapter_lr: float = 1.0, **presets: Any
) -> Callable[[Loss], Loss]:
    """Decorator: makes a class a loss under ``name``, which is then a ``TYPE`` of ``KD.LOSSES``.

    One class may have several names, each with a decorator of its own.

    Args:
        name: a Python identifier that no other loss has.
        default_share: the SHARE of a block that gives neither SHARE nor WEIGHT, see ``kd2.distill.weighting``.
        default_adapter_lr: the ADAPTER_LR of a block without WEIGHT: the learning rate of what the loss trains beside
            the student, over the run's. With a WEIGHT it is 1, as in papers' settings.
        presets: options that have another default under this name.

    Raises:
        ConfigError: a name that is taken or no identifier; a preset that is no option or has a wrong value; an option
            without a type hint that can be checked.
    """
    if not name.isidentifier():
        raise ConfigError(f"a loss cannot be registered as {name!r}, expected a Python identifier")

    def register(loss: Loss) -> Loss:
        hints = options_of(loss)
        for option, value in presets.items():
            if option not in hints:
                raise ConfigError(
                    f"{_where(loss)} as {name!r}: there is no option {option!r}; {nearest(option, hints)}"
                )
            check_value(f"{_where(loss)} as {name!r}: {option}", value, hints[option])
        _LOSSES.add(name, _Entry(loss, default_share, default_adapter_lr, presets))
        return loss

    return register


def loss_types() -> list[str]:
    """The valid values of ``TYPE``, sorted."""
    return sorted(name for name, _ in _LOSSES)


def import_losses(modules: Sequence[str]) -> None:
    """Import the modules that register a user's own losses. A config never does so; the command line names them.

    Args:
        modules: names as in ``import NAME``. The current folder is searched too, behind the installed packages.

    Raises:
        ConfigError: a module that cannot be imported, or that registers no loss.
    """
    folder = os.getcwd()
    if modules and folder not in sys.path:
        sys.path.append(folder)
    for module in modules:
        try:
            importlib.import_module(module)
        except ConfigError as error:
            raise ConfigError(f"--import {module}: {error}") from error
        except Exception as error:  # whatever a user's file raises
            hint = f"; give the name of the module, {module[:-3]}" if module.endswith(".py") else ""
            raise ConfigError(f"--import {module}: {type(error).__name__}: {error}{hint}") from error
        if not any(f"{entry.loss.__module__}.".startswith(f"{module}.") for _, entry in _LOSSES):
            raise ConfigError(f"--import {module}: it registers no loss; expected a class under @register_loss(NAME)")


def check_losses(blocks: Any) -> None:
    """Check the text of ``KD.LOSSES``, of losses with weight 0 too. No file, model or module is touched.

    Raises:
        ConfigError: a name that cannot stand in a log; an unknown type or key; a value of the wrong type, outside its
            range or not finite; iterations in no order. Names ``KD.LOSSES.x.KEY``, what was found and what was
            expected.

    Example:
        >>> check_losses({"mgd": {"WEIGHT": 2e-5, "RATIO": 0.65}})
        >>> check_losses({"mgd": {"RATIO": 65}})
        Traceback (most recent call last):
            ...
        kd2.distill.errors.ConfigError: KD.LOSSES.mgd.RATIO is 65, expected a number in [0, 1]
    """
    if not isinstance(blocks, Mapping):
        raise ConfigError(f"KD.LOSSES is {blocks!r}, expected blocks by name, such as mgd: {{WEIGHT: 0.00002}}")
    taken = nn.ModuleDict()
    for name, block in blocks.items():
        if not isinstance(name, str) or not name.isidentifier() or hasattr(taken, name):
            raise ConfigError(
                f"KD.LOSSES.{name}: a loss cannot have this name; expected letters, digits and underscores, and no "
                "name of a method such as 'keys'; TYPE says which loss it is"
            )
        _check_block(name, block)


def active_losses(blocks: Blocks) -> dict[str, Mapping[str, Any]]:
    """The blocks of ``KD.LOSSES`` that count: one of weight or share 0 is not built. Raises like ``check_losses``."""
    check_losses(blocks)
    return {name: block for name, block in blocks.items() if _schedule(_entry(name, block), block).weight != 0}


def complete_losses(blocks: Blocks) -> dict[str, dict[str, Any]]:
    """The active blocks with all that they leave to defaults: TYPE, every option, a share where there is no WEIGHT, the
    adapters' learning rate.

    Raises like ``check_losses``.
    """
    complete = {}
    for name, block in active_losses(blocks).items():
        entry = _entry(name, block)
        options = {option.upper(): value for option, value in (defaults_of(entry.loss) | dict(entry.presets)).items()}
        complete[name] = {"TYPE": name, **entry.strength(block), **options, **block}
    return complete


def class_losses(blocks: Blocks) -> list[str]:
    """Names of the blocks whose loss takes channel i of both sides for class i (it has ``over_classes``)."""
    return [name for name, block in blocks.items() if getattr(_entry(name, block).loss, "over_classes", False)]


def build_losses(blocks: Blocks, student: Specs, teacher: Specs) -> tuple[dict[str, nn.Module], dict[str, LossConfig]]:
    """Build the active losses of ``KD.LOSSES``.

    Args:
        blocks: name -> block; the loss is called ``loss_<name>``.
        student, teacher: what the probes saw, by tap alias.

    Returns:
        The modules, and the tap and schedule of each, by name.

    Raises:
        ConfigError: see ``check_losses``; an unknown tap; different numbers of maps on the two sides; what a loss says
            of maps that do not suit it.
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
        entry = _entry(name, block)
        with naming(key):
            modules[name] = entry.loss(student[tap], teacher[tap], **_options(entry, block))
        strength = entry.strength(block)
        configs[name] = LossConfig(
            tap, _schedule(entry, block), strength.get("CALIBRATE_ITERS", 0), strength["ADAPTER_LR"]
        )
    return modules, configs


def _entry(name: str, block: Mapping[str, Any]) -> _Entry:
    kind = block.get("TYPE", name)
    if not isinstance(kind, str) or kind not in _LOSSES:
        key = f"KD.LOSSES.{name}.TYPE" if "TYPE" in block else f"KD.LOSSES.{name}"
        raise ConfigError(f"{key}: there is no loss {kind!r}; {nearest(kind, loss_types())}")
    return _LOSSES.get(kind)


def _options(entry: _Entry, block: Mapping[str, Any]) -> dict[str, Any]:
    return dict(entry.presets) | {key.lower(): value for key, value in block.items() if key not in _COMMON}


def _check_block(name: str, block: Any) -> None:
    if not isinstance(block, Mapping):
        raise ConfigError(f"KD.LOSSES.{name} is {block!r}, expected a block of keys such as WEIGHT and TAP")
    entry = _entry(name, block)
    expected = _COMMON | {option.upper(): hint for option, hint in options_of(entry.loss).items()}
    for key, value in block.items():
        where = f"KD.LOSSES.{name}.{key}"
        if key not in expected:
            raise ConfigError(f"{where}: no such key; {nearest(key, expected)}")
        check_value(where, value, expected[key])
    for option in options_of(entry.loss).keys() - (defaults_of(entry.loss) | _options(entry, block)).keys():
        raise ConfigError(f"KD.LOSSES.{name}.{option.upper()} is missing; this loss has no default for it")
    for key in ("SHARE", "CALIBRATE_ITERS"):
        if {"WEIGHT", key} <= set(block):
            raise ConfigError(f"KD.LOSSES.{name} has both WEIGHT and {key}, expected one of them")
    schedule = _schedule(entry, block)
    if schedule.stop != -1 and schedule.stop <= schedule.start:
        raise ConfigError(
            f"KD.LOSSES.{name}.STOP_ITER is {schedule.stop}, expected -1 (never) or an iteration after START_ITER, "
            f"which is {schedule.start}"
        )
    together: Callable[..., Iterator[str]] | None = getattr(entry.loss, "conflicts", None)
    if together is not None:
        for conflict in together(**defaults_of(entry.loss) | _options(entry, block)):
            raise ConfigError(f"KD.LOSSES.{name}: {conflict}")
    if "TAP" not in block and class_losses({name: block}):
        raise ConfigError(f"KD.LOSSES.{name}.TAP is missing; it compares classes, expected the alias of their scores")


def _schedule(entry: _Entry, block: Mapping[str, Any]) -> Schedule:
    strength = entry.strength(block)
    weight = strength["WEIGHT" if "WEIGHT" in strength else "SHARE"]
    return Schedule(weight, *(block.get(key, default) for key, default in _TIMES))


def _where(loss: type) -> str:
    return f"{loss.__module__}.{loss.__qualname__}"
