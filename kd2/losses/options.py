"""The options of a loss: the keyword-only arguments of its constructor, checked from the text of a config alone.

The type hints of the constructor are the one declaration of what an option may be: ``bool``, ``int``, ``float``,
``str``, ``Literal[...]`` and ``Sequence`` of one of these; ``Annotated`` adds a range. ``Positive``, ``NonNegative``,
``Share``, ``Count``, ``Cells`` and ``OptionalCells`` are ready for use. What is wrong with options taken together, a
loss's static method ``conflicts(**options)`` yields as texts.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from kd2.distill import ConfigError, nearest

_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; an end that is ``open`` does not belong to them.

    Attributes:
        words: what an error says was expected.
        low, high: the ends.
        open: which of ``low`` and ``high`` are left out.
        multiple: what a whole number is a multiple of.
    """

    words: str
    low: float = -math.inf
    high: float = math.inf
    open: tuple[str, ...] = ()
    multiple: int = 1

    def holds(self, value: float) -> bool:
        """Whether a finite number is in the range."""
        above = value > self.low if "low" in self.open else value >= self.low
        below = value < self.high if "high" in self.open else value <= self.high
        return above and below and (self.multiple == 1 or value % self.multiple == 0)


@dataclass(frozen=True)
class Length:
    """How many elements a list has; ``words`` is what an error says was expected."""

    words: str
    lengths: tuple[int, ...]


Positive = Annotated[float, Range("a number above 0", low=0, open=("low",))]
NonNegative = Annotated[float, Range("a number of 0 or more", low=0)]
Share = Annotated[float, Range("a number in [0, 1]", low=0, high=1)]
Count = Annotated[int, Range("a whole number above 0", low=1)]

_CELLS = "two whole numbers above 0: rows and columns"
# (rows, columns) of cells.
Cells = Annotated[Sequence[Annotated[int, Range(_CELLS, low=1)]], Length(_CELLS, (2,))]
# The same, or an empty list.
OptionalCells = Annotated[Sequence[Annotated[int, Range(_CELLS, low=1)]], Length(_CELLS, (0, 2))]


def options_of(loss: type) -> dict[str, Any]:
    """The options of a loss and their type hints, by name.

    Raises:
        ConfigError: an option without a hint, or with one that cannot be checked.
    """
    parameters = inspect.signature(loss.__init__).parameters.values()  # type: ignore[misc]  # of the class itself
    hints = get_type_hints(loss.__init__, include_extras=True)  # type: ignore[misc]
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in names:
        if name not in hints or not _checkable(hints[name]):
            raise ConfigError(
                f"{loss.__name__}: option {name} has the type hint {hints.get(name)}, expected bool, int, float, str, "
                "Literal, or a Sequence of one of them, with Annotated where it has a range"
            )
    return {name: hints[name] for name in names}


def defaults_of(loss: type) -> dict[str, Any]:
    """The options of a loss that have a default value, and that value."""
    parameters = inspect.signature(loss.__init__).parameters.values()  # type: ignore[misc]
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def check_value(where: str, value: Any, hint: Any) -> None:
    """Refuse a value that a type hint does not allow.

    Args:
        where: the key, for the error.
        value: what the config says; a whole number is a ``float`` too, a ``bool`` is no number.
        hint: see the head of this file.

    Raises:
        ConfigError: names the key, what was found and what was expected.
    """
    kind, bounds = _split(hint)
    words = bounds.words if bounds else _words(kind)
    if get_origin(kind) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            raise ConfigError(f"{where} is {value!r}; {nearest(value, get_args(kind))}")
        return
    if get_origin(kind) is not None:
        _check_list(where, value, kind, bounds, words)
        return
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r} ({type(value).__name__}), expected {words}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, expected {words}, finite")
    if isinstance(bounds, Range) and not bounds.holds(value):
        raise ConfigError(f"{where} is {value}, expected {words}")


def _check_list(where: str, value: Any, kind: Any, bounds: Range | Length | None, words: str) -> None:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {value!r} ({type(value).__name__}), expected {words}")
    if isinstance(bounds, Length) and len(value) not in bounds.lengths:
        raise ConfigError(f"{where} is {list(value)}, expected {words}")
    for index, element in enumerate(value):
        check_value(f"{where}[{index}]", element, get_args(kind)[0])


def _split(hint: Any) -> tuple[Any, Range | Length | None]:
    """A hint without its range, and the range."""
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *extras = get_args(hint)
    return kind, next((x for x in extras if isinstance(x, (Range, Length))), None)


def _checkable(hint: Any) -> bool:
    kind, _ = _split(hint)
    if get_origin(kind) in (list, Sequence):
        return _checkable(get_args(kind)[0])
    return kind in _PLAIN or get_origin(kind) is Literal


def _words(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is not None:
        return f"a list of {_words(_split(get_args(kind)[0])[0])}"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "text"}.get(kind, str(kind))
