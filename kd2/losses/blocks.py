"""The blocks of ``KD.LOSSES``: judged as text, completed by defaults, built as modules."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from torch import nn

from kd2.distill import ConfigError, FeatureSpec, LossConfig, Schedule, naming, nearest
from kd2.distill.solver import has_adapters
from kd2.distill.values import CountOrZero, NonNegative, Positive, Range, check_value
from kd2.distill.weighting import LARGEST_GAP
from kd2.losses.options import defaults_of, options_of
from kd2.losses.registry import Entry, entry_of

#: The keys that every block has, with what they take.
COMMON_KEYS: dict[str, Any] = {
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
    return {name: block for name, block in blocks.items() if _schedule(entry_of(name, block), block).weight != 0}


def complete_losses(blocks: Blocks) -> dict[str, dict[str, Any]]:
    """The active blocks with all that they leave to defaults: TYPE, every option, a share where there is no WEIGHT, the
    adapters' learning rate.

    Raises like ``check_losses``.
    """
    complete = {}
    for name, block in active_losses(blocks).items():
        entry = entry_of(name, block)
        options = {option.upper(): value for option, value in (defaults_of(entry.loss) | dict(entry.presets)).items()}
        complete[name] = {"TYPE": name, **_strength(entry, block), **options, **block}
    return complete


def class_losses(blocks: Blocks) -> list[str]:
    """Names of the blocks whose loss takes channel i of both sides for class i (it has ``over_classes``)."""
    return [name for name, block in blocks.items() if getattr(entry_of(name, block).loss, "over_classes", False)]


def build_losses(blocks: Blocks, student: Specs, teacher: Specs) -> tuple[dict[str, nn.Module], dict[str, LossConfig]]:
    """Build the active losses of ``KD.LOSSES``.

    Args:
        blocks: name -> block; the loss is called ``loss_<name>``.
        student, teacher: what the probes saw, by tap alias.

    Returns:
        The modules, and the tap and schedule of each, by name.

    Raises:
        ConfigError: see ``check_losses``; an unknown tap; different numbers of maps on the two sides; a rate of
            adapters that the loss does not have; what a loss says of maps that do not suit it.
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
        entry = entry_of(name, block)
        with naming(key):
            modules[name] = entry.loss(student[tap], teacher[tap], **_options(entry, block))
        if "ADAPTER_LR" in block and not has_adapters(modules[name]):
            raise ConfigError(f"{key}.ADAPTER_LR is given, but this loss has no adapters, which it is the rate of")
        strength = _strength(entry, block)
        configs[name] = LossConfig(
            tap, _schedule(entry, block), strength.get("CALIBRATE_ITERS", 0), strength["ADAPTER_LR"]
        )
    return modules, configs


def _options(entry: Entry, block: Mapping[str, Any]) -> dict[str, Any]:
    return dict(entry.presets) | {key.lower(): value for key, value in block.items() if key not in COMMON_KEYS}


def _check_block(name: str, block: Any) -> None:
    if not isinstance(block, Mapping):
        raise ConfigError(f"KD.LOSSES.{name} is {block!r}, expected a block of keys such as WEIGHT and TAP")
    entry = entry_of(name, block)
    expected = COMMON_KEYS | {option.upper(): hint for option, hint in options_of(entry.loss).items()}
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


def _strength(entry: Entry, block: Mapping[str, Any]) -> dict[str, Any]:
    """What a block says, or leaves to defaults, of how strongly the loss and its adapters learn."""
    if "WEIGHT" in block:
        usual = {"WEIGHT": block["WEIGHT"], "ADAPTER_LR": 1.0}
    else:
        usual = {"SHARE": entry.share, "CALIBRATE_ITERS": _CALIBRATE_ITERS, "ADAPTER_LR": entry.adapter_lr}
    return {key: block.get(key, value) for key, value in usual.items()}


def _schedule(entry: Entry, block: Mapping[str, Any]) -> Schedule:
    strength = _strength(entry, block)
    weight = strength["WEIGHT" if "WEIGHT" in strength else "SHARE"]
    return Schedule(weight, *(block.get(key, default) for key, default in _TIMES))
