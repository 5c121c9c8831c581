"""The options of a loss: the keyword-only arguments of its constructor, checked from the text of a config alone.

The type hints of the constructor are the one declaration of what an option may be: see ``kd2.distill.values``. What is
wrong with options taken together, a loss's static method ``conflicts(**options)`` yields as texts.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kd2.distill import ConfigError
from kd2.distill.values import split

_PLAIN = (bool, int, float, str)


def options_of(loss: type) -> dict[str, Any]:
    """The options of a loss and their type hints, by name.

    Raises:
        ConfigError: an option without a hint, or with one that cannot be checked.
    """
    init: Any = loss.__init__  # type: ignore[misc]  # of this very class, not of a subclass
    hints, names = get_type_hints(init, include_extras=True), [p.name for p in _keyword_only(loss)]
    for name in names:
        if name not in hints or not _checkable(hints[name]):
            raise ConfigError(
                f"{loss.__name__}: option {name} has the type hint {hints.get(name)}, expected bool, int, float, str, "
                "Literal, or a Sequence of one of them, with Annotated where it has a range"
            )
    return {name: hints[name] for name in names}


def defaults_of(loss: type) -> dict[str, Any]:
    """The options of a loss that have a default value, and that value."""
    return {p.name: p.default for p in _keyword_only(loss) if p.default is not p.empty}


def _keyword_only(loss: type) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _checkable(hint: Any) -> bool:
    kind, _ = split(hint)
    if get_origin(kind) in (list, Sequence):
        return _checkable(get_args(kind)[0])
    return kind in _PLAIN or get_origin(kind) is Literal
