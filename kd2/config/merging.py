"""Merging what a file says into the defaults: every key is known, every value is one that its declaration allows."""

from collections.abc import Iterator, Mapping
from typing import Any

from fvcore.common.config import CfgNode

from kd2.config.keys import KEYS
from kd2.config.keys.detectron2 import CHECKS
from kd2.config.reading import literal
from kd2.distill import ConfigError, nearest
from kd2.distill.values import check_value, shown


def merge(cfg: CfgNode, loaded: Mapping[str, Any]) -> CfgNode:
    """Merge a dict from ``read`` into the defaults ``cfg``; returns ``cfg``.

    Raises:
        ConfigError: an unknown key (with near names), a value that the key's declaration does not allow or, where kd2
            declares nothing, of another type than the default's.
    """
    kinds = {key.name: key.kind for key in KEYS[cfg.FRAMEWORK].values()}
    if cfg.FRAMEWORK == "detectron2":
        kinds |= CHECKS
    _merge(cfg, loaded, kinds, "")
    return cfg


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full name and value of every key of a nested mapping that is no group; an empty group has none."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merge(node: CfgNode, loaded: Mapping[str, Any], kinds: Mapping[str, Any], prefix: str) -> None:
    for key, value in loaded.items():
        name = f"{prefix}{key}"
        if key not in node:
            if not node.is_new_allowed():
                raise ConfigError(f"{name}: no such key; {nearest(key, node)}")
            node[str(key)] = _free(name, value, type(node))
        elif isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{name} is {shown(value)}, expected a group of keys: {', '.join(node[key]) or 'any'}"
                )
            _merge(node[key], value, kinds, f"{name}.")
        else:
            node[key] = _converted(name, value, node[key], kinds.get(name))


def _converted(name: str, value: Any, default: Any, kind: Any) -> Any:
    """``value`` as the type of ``default``: int for float and list for tuple (and back) are the same thing."""
    if isinstance(value, str) and not isinstance(default, str):
        value = literal(value)
    if kind is None:
        _check_like(name, value, default)
    else:
        check_value(name, value, kind)
    if isinstance(default, float) and value is not None:
        return float(value)
    return type(default)(value) if isinstance(default, (list, tuple)) else value


def _check_like(name: str, value: Any, default: Any) -> None:
    """Judge a value by a default alone. Lists may be nested otherwise: Detectron2 takes one for several equal ones."""
    if not isinstance(default, (list, tuple)):
        check_value(name, value, Any if default is None else type(default))
        return
    check_value(name, value, list[Any])
    kinds = {float if type(x) is int else type(x) for x in _flat(default)}
    for element in _flat(value) if len(kinds) == 1 else ():
        check_value(f"{name} has an element that", element, *kinds)


def _flat(value: Any) -> list[Any]:
    return [y for x in value for y in _flat(x)] if isinstance(value, (list, tuple)) else [value]


def _free(name: str, value: Any, kind: type[CfgNode]) -> Any:
    """A value below a node that takes new keys; keys become texts, the only ones that a node can write."""
    if isinstance(value, Mapping):
        return kind({str(key): _free(f"{name}.{key}", child, kind) for key, child in value.items()}, new_allowed=True)
    check_value(name, value, Any)
    return value
