"""Reading config files: safe YAML without repeated keys, ``_BASE_``, ``KEY VALUE`` options."""

import ast
import itertools
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from kd2.config.paths import found_path, packaged_config
from kd2.distill import ConfigError, nearest

FRAMEWORKS = ("detectron2", "torchvision", "timm")

# Two ways to say one thing: who gives one of them takes back the other of the file below.
_INSTEAD = {"WEIGHT": "SHARE", "SHARE": "WEIGHT"}

# Values that one file may have. YAML's aliases let a short text stand for billions.
_MOST_VALUES = 100_000


def read(path: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """A config file with its ``_BASE_`` files and then ``KEY VALUE`` pairs merged, as a plain dict.

    Args:
        path: a file, or ``kd2://NAME`` for one that the package brings.
        options: pairs such as ``["SOLVER.MAX_ITER", "9"]``; a value is the Python literal that it spells, or text.

    Raises:
        ConfigError: a missing or unsafe file, text that is no YAML mapping, a key that stands twice in one mapping, an
            odd number of options.
    """
    loaded = _with_bases(packaged_config(path) if path.startswith("kd2://") else path, ())
    _set(loaded, options)
    return loaded


def overrides(options: Sequence[str]) -> dict[str, Any]:
    """``KEY VALUE`` pairs as a nested dict for ``merge``; raises ConfigError for an odd number of words."""
    loaded: dict[str, Any] = {}
    _set(loaded, options)
    return loaded


def framework_of(loaded: Mapping[str, Any], path: str) -> str:
    """The value of ``FRAMEWORK`` in a dict from ``read`` (default detectron2); raises ConfigError when unknown."""
    name = loaded.get("FRAMEWORK", "detectron2")
    if name not in FRAMEWORKS:
        raise ConfigError(f"FRAMEWORK in {path} is {name!r}; {nearest(name, FRAMEWORKS)}")
    return str(name)


def literal(text: Any) -> Any:
    """The Python literal that a text spells ("1e-3", "(800,)", "True"), otherwise what was given."""
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key which stands twice in one mapping, where the last would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # refused by PyYAML itself
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: the key {key} stands twice in one mapping")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _with_bases(path: str, children: tuple[str, ...]) -> dict[str, Any]:
    real = os.path.realpath(path)
    if real in children:
        raise ConfigError(f"config file {path}: its _BASE_ files lead back to itself")
    loaded = _file(path)
    bases = loaded.pop("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigError(f"config file {path}: _BASE_ is {base!r}, expected a file or a list of files")
        _override(merged, _with_bases(_base_path(base, path), (*children, real)), path)
    _override(merged, loaded, path)
    return merged


def _base_path(base: str, path: str) -> str:
    return found_path(base, path) or os.path.join(os.path.dirname(path), base)


def _file(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            loaded = yaml.load(file, _Loader)
        crowded = next(itertools.islice(_values(loaded), _MOST_VALUES, None), False)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or 'cannot be read'}") from None
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"config file {path}: not a safe YAML mapping: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file {path}: expected a mapping of keys, found {type(loaded).__name__}")
    if crowded:
        raise ConfigError(f"config file {path}: expected at most {_MOST_VALUES} values; its aliases repeat one another")
    return loaded


def _values(value: Any) -> Iterator[bool]:
    """True for every value, those below aliases as often as they are named."""
    yield True
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _values(child)


def _override(below: dict[str, Any], above: Mapping[str, Any], path: str) -> None:
    if set(_INSTEAD) <= set(above):
        raise ConfigError(f"config file {path}: a block has both {' and '.join(_INSTEAD)}, expected one of them")
    for key, value in above.items():
        if isinstance(value, dict) and key in below:
            if not isinstance(below[key], dict):
                raise ConfigError(f"config file {path}: {key} is a group of keys here and a value in its _BASE_ file")
            _override(below[key], value, path)
        else:
            _put(below, key, value)


def _put(node: dict[str, Any], key: str, value: Any) -> None:
    node.pop(_INSTEAD.get(key, ""), None)
    node[key] = value


def _set(loaded: dict[str, Any], options: Sequence[str]) -> None:
    if len(options) % 2:
        raise ConfigError(f"expected KEY VALUE pairs, found {len(options)} words: {' '.join(map(str, options))}")
    for key, text in zip(options[::2], options[1::2], strict=True):
        node = loaded
        *parents, last = str(key).split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: {parent} is a value, not a group of keys")
        _put(node, last, literal(text))
