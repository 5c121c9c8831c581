"""Merging what a file says into the defaults: every key is known, every value has its default's type."""

from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode

from kd2.config.reading import literal
from kd2.distill import ConfigError, nearest

# Keys that may be None, and the type that they have otherwise.
OPTIONAL: Mapping[str, type] = {"SOLVER.WEIGHT_DECAY_BIAS": float}


def merge(cfg: CfgNode, loaded: Mapping[str, Any]) -> CfgNode:
    """Merge a dict from ``read`` into the defaults ``cfg``; returns ``cfg``.

    Raises:
        ConfigError: an unknown key (with near names), a value or an element of another type than the default's.
    """
    _merge(cfg, loaded, "")
    return cfg


def _merge(node: CfgNode, loaded: Mapping[str, Any], prefix: str) -> None:
    for key, value in loaded.items():
        name = f"{prefix}{key}"
        if key not in node:
            if not node.is_new_allowed():
                raise ConfigError(f"{name}: no such key; {nearest(key, node)}")
            node[str(key)] = _free(value, type(node))
        elif isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name} is {value!r}, expected a group of keys: {', '.join(node[key]) or 'any'}")
            _merge(node[key], value, f"{name}.")
        else:
            node[key] = _converted(name, value, node[key])


def _converted(name: str, value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``: int for float and list for tuple (and back) are the same thing."""
    if isinstance(value, str) and not isinstance(default, str):
        value = literal(value)
    kind = OPTIONAL.get(name, type(default))
    if value is None and name in OPTIONAL or kind is type(None):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        _check_elements(name, value, default)
        return type(default)(value)
    if type(value) is not kind:
        like = "" if default is None else f" like {default!r}"
        raise ConfigError(f"{name} is {value!r} ({type(value).__name__}), expected {kind.__name__}{like}")
    return value


def _check_elements(name: str, value: Any, default: Any) -> None:
    """Numbers stay numbers and texts texts, at whatever depth: Detectron2 takes one list for a list of equal lists."""
    kinds = {_kind(x) for x in _flat(default)}
    for element in _flat(value):
        if kinds and _kind(element) not in kinds:
            shown = list(default)
            raise ConfigError(
                f"{name} has the element {element!r} ({type(element).__name__}), expected a list like {shown}"
            )


def _flat(value: Any) -> list[Any]:
    return [y for x in value for y in _flat(x)] if isinstance(value, (list, tuple)) else [value]


def _kind(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _free(value: Any, kind: type[CfgNode]) -> Any:
    """A value below a node that takes new keys; keys become texts, the only ones that a node can write."""
    if isinstance(value, Mapping):
        return kind({str(key): _free(child, kind) for key, child in value.items()}, new_allowed=True)
    return literal(value)
