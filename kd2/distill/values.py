"""What a value in a config may be, written as a type hint: the one language of keys and of the options of losses.

``bool``, ``int``, ``float``, ``str``, ``Literal[...]``, ``Sequence`` of one of these, ``A | B``, ``dict`` and ``Any``;
``Annotated`` adds a range or a length. The names below are ready for use.
"""

import math
import reprlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kd2.distill.errors import ConfigError, nearest

_NOUNS: dict[Any, tuple[str, str]] = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    dict: ("a group of keys", "groups of keys"),
    type(None): ("None", "None"),
    Any: ("any value", "any values"),
}

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = 12
_short.maxstring = _short.maxother = _short.maxlong = 120


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; an end that is ``open`` does not belong to them.

    Attributes:
        words: what an error says was expected; empty: made from the rest.
        low, high: the ends.
        open: which of ``low`` and ``high`` are left out.
        multiple: what a whole number is a multiple of.
    """

    words: str = ""
    low: float = -math.inf
    high: float = math.inf
    open: tuple[str, ...] = ()
    multiple: int = 1

    def holds(self, value: float) -> bool:
        """Whether a finite number is in the range."""
        above = value > self.low if "low" in self.open else value >= self.low
        below = value < self.high if "high" in self.open else value <= self.high
        return above and below and (self.multiple == 1 or value % self.multiple == 0)

    def text(self) -> str:
        """The range in words, such as ``above 0``."""
        if self.high < math.inf:
            left, right = "(" if "low" in self.open else "[", ")" if "high" in self.open else "]"
            return f"in {left}{self.low}, {self.high}{right}"
        return f"above {self.low}" if "low" in self.open else f"of {self.low} or more"


@dataclass(frozen=True)
class Length:
    """How many elements a list has; ``words`` is what an error says was expected, if not the usual."""

    lengths: tuple[int, ...]
    words: str = ""


Positive = Annotated[float, Range(low=0, open=("low",))]
NonNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]
BelowOne = Annotated[float, Range(low=0, high=1, open=("high",))]
Count = Annotated[int, Range(low=0, open=("low",))]
CountOrZero = Annotated[int, Range(low=0)]
Texts = Sequence[str]

_CELLS = "two whole numbers above 0: rows and columns"
# (rows, columns) of cells, or (height, width) of pixels.
Cells = Annotated[Sequence[Annotated[int, Range(_CELLS, low=1)]], Length((2,), _CELLS)]
# The same, or an empty list.
OptionalCells = Annotated[Sequence[Annotated[int, Range(_CELLS, low=1)]], Length((0, 2), _CELLS)]


def one_of(*choices: Any) -> Any:
    """The hint of a value that is one of ``choices``."""
    return Literal[choices]


def expected(hint: Any, plural: bool = False) -> str:
    """A hint in words, such as ``a list of 2 numbers above 0``."""
    kind, bounds = split(hint)
    if bounds and bounds.words:
        return bounds.words
    options = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(_choice, options))}"
    if _is_union(kind):
        return ", or ".join(expected(option, plural) for option in options)
    if options:
        count = f"{' or '.join(map(str, bounds.lengths))} " if isinstance(bounds, Length) else ""
        return f"{'lists' if plural else 'a list'} of {count}{expected(options[0], plural=True)}"
    noun = _NOUNS[kind][plural]
    return f"{noun} {bounds.text()}" if isinstance(bounds, Range) else noun


def check_value(where: str, value: Any, hint: Any) -> None:
    """Refuse a value that a hint does not allow.

    Args:
        where: the key, for the error.
        value: what the config says; a whole number is a ``float`` too, a ``bool`` is no number.
        hint: see the head of this file.

    Raises:
        ConfigError: names the key, what was found and what was expected.
    """
    kind, bounds = split(hint)
    if kind is Any or kind is dict and isinstance(value, Mapping):
        _check_finite(where, value)
    elif get_origin(kind) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            raise ConfigError(f"{where} is {shown(value)}; {nearest(value, map(_choice, get_args(kind)))}")
    elif _is_union(kind):
        if not any(_allows(value, option) for option in get_args(kind)):
            raise ConfigError(f"{where} is {shown(value)}, expected {expected(hint)}")
    elif get_origin(kind) is not None:
        _check_list(where, value, hint)
    elif not _is(value, kind):
        raise ConfigError(f"{where} is {shown(value)} ({type(value).__name__}), expected {expected(hint)}")
    elif isinstance(value, (int, float)) and not _finite(value):
        raise ConfigError(f"{where} is {shown(value)}, expected {expected(hint)}, finite")
    elif isinstance(bounds, Range) and not bounds.holds(value):
        raise ConfigError(f"{where} is {shown(value)}, expected {expected(hint)}")


def shown(value: Any) -> str:
    """A value for an error: its text on one line, shortened."""
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a huge number"


def is_small(number: int) -> bool:
    """Whether a whole number has 64 bits at most: what tensors and seeds take."""
    return number.bit_length() < 64


def split(hint: Any) -> tuple[Any, Range | Length | None]:
    """A hint without its range or length, and that."""
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *extras = get_args(hint)
    return kind, next((x for x in extras if isinstance(x, (Range, Length))), None)


def _check_list(where: str, value: Any, hint: Any) -> None:
    kind, bounds = split(hint)
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {shown(value)} ({type(value).__name__}), expected {expected(hint)}")
    if isinstance(bounds, Length) and len(value) not in bounds.lengths:
        raise ConfigError(f"{where} is {shown(list(value))}, expected {expected(hint)}")
    for index, element in enumerate(value):
        check_value(f"{where}[{index}]", element, get_args(kind)[0])


def _check_finite(where: str, value: Any) -> None:
    if not all(_finite(number) for number in _numbers(value)):
        raise ConfigError(f"{where} is {shown(value)}, expected finite numbers")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for element in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(element)


def _finite(number: float) -> bool:
    return is_small(number) if isinstance(number, int) else math.isfinite(number)


def _allows(value: Any, hint: Any) -> bool:
    try:
        check_value("", value, hint)
    except ConfigError:
        return False
    return True


def _is(value: Any, kind: Any) -> bool:
    accepted = (int, float) if kind is float else kind
    return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _choice(choice: Any) -> str:
    return str(choice) if choice != "" else "''"
