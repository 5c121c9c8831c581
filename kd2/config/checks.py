"""What a value of a config key may be, declared in tables: key -> ``Check``.

Every framework has a table in its own file of this folder; ``kd2.config.load`` reads it before any file or model is
touched. A key without an entry may have every value of its default's type.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from kd2.distill import ConfigError, nearest


@dataclass(frozen=True)
class Check:
    """The values of one key.

    Attributes:
        kind: type of the value, or of each element of a list; a float may be written without a dot.
        low, high: smallest and largest number, both allowed; None: no bound.
        above, below: bounds that are not allowed themselves.
        choices: all allowed texts; empty: any.
        depth: 0 a value, 1 a list, 2 a list of lists.
        lengths: how many elements a list may have; empty: any number.
        optional: None is a value too.
    """

    kind: type = float
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    depth: int = 0
    lengths: tuple[int, ...] = ()
    optional: bool = False

    def text(self) -> str:
        """The expectation in words, such as ``a list of 2 integers, 1 or more``."""
        noun = {int: "integer", float: "number", str: "text", bool: "True or False"}[self.kind]
        if self.depth:
            count = "".join(f"{' or '.join(map(str, self.lengths))} " if self.lengths else "")
            text = f"a list of {'lists of ' * (self.depth - 1)}{count}{noun}s"
        else:
            text = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if self.kind is not bool else noun
        return ", ".join([text, *self._bounds()]) + (" or None" if self.optional else "")

    def _bounds(self) -> Iterator[str]:
        if self.low is not None:
            if self.high is None:
                yield f"{self.low} or more"
            else:
                yield f"{self.low} to {self.high}" if self.low != self.high else f"only {self.low}"
        if self.above is not None:
            yield f"above {self.above}"
        if self.below is not None:
            yield f"below {self.below}"
        if self.choices:
            yield f"one of {', '.join(map(repr, self.choices))}"

    def verify(self, name: str, value: Any) -> None:
        """Raise ConfigError naming the key ``name`` when ``value`` is not allowed."""
        if value is None and self.optional:
            return
        if self.depth == 0 and self.choices and isinstance(value, str):
            if value not in self.choices:
                raise ConfigError(f"{name} is {value!r}; {nearest(value, map(_shown, self.choices))}")
            return
        if not self._fits(value, self.depth):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f"{name} is {shown!r}, expected {self.text()}")

    def _fits(self, value: Any, depth: int) -> bool:
        if depth:
            if not isinstance(value, (list, tuple)) or (depth == 1 and self.lengths and len(value) not in self.lengths):
                return False
            return all(self._fits(x, depth - 1) for x in value)
        return _is(value, self.kind) and self._in_range(value)

    def _in_range(self, value: Any) -> bool:
        if self.kind not in (int, float):
            return not self.choices or value in self.choices
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


Checks = Mapping[str, Check]

COUNT = Check(int, low=0)
POSITIVE = Check(int, low=1)
FACTOR = Check(low=0)
SHARE = Check(low=0, high=1)
NAMES = Check(str, depth=1)
SIZES = Check(int, low=1, depth=1)
SIDES = Check(int, low=1, depth=1, lengths=(2,))


# Further arguments by which timm and torchvision come to weights.
_WEIGHTS = ("cache_dir", "model_cfg", "feature_cfg", "progress")


def one_of(*choices: str) -> Check:
    """A text that is one of ``choices``."""
    return Check(str, choices=choices)


def verify(cfg: CfgNode, checks: Checks) -> None:
    """Raise ConfigError for the first value of ``cfg`` that is not finite or that its entry in ``checks`` forbids."""
    for name, value in leaves(cfg):
        for number in _numbers(value):
            if not math.isfinite(number):
                raise ConfigError(f"{name} is {value!r}, expected finite numbers")
        if name in checks:
            checks[name].verify(name, value)


def refuse_weights(args: Mapping[str, Any], name: str) -> None:
    """Raise ConfigError for keyword arguments, of the key ``name``, by which a library would read or fetch weights."""
    for key in args:
        if key.startswith(("pretrained", "weights", "checkpoint")) or key in _WEIGHTS:
            raise ConfigError(f"{name}.{key}: a library reads no file by its arguments; the keys WEIGHTS name one")


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full name and value of every key of a nested mapping that is no group; an empty group has none."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _numbers(element)
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()))


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _shown(choice: str) -> str:
    return choice or "''"
