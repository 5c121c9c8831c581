"""Reading config files: safe YAML of plain values, ``_BASE_``, ``KEY VALUE`` options."""

import ast
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from kd2.config.keys import KEYS
from kd2.config.paths import config_path, found_path
from kd2.distill import ConfigError, nearest
from kd2.distill.values import is_small, shown

logger = logging.getLogger(__name__)

FRAMEWORKS = ("detectron2", "torchvision", "timm")

# Two ways to say one thing: who gives one of them takes back the other of the file below.
_INSTEAD = {"WEIGHT": ("SHARE", "CALIBRATE_ITERS"), "SHARE": ("WEIGHT",)}
# Groups that take any keys: a whole one can be a value of the command line.
_OPEN = {key.name for keys in KEYS.values() for key in keys.values() if key.kind is dict}

# What one config may have, so that every text is read in seconds. YAML's aliases let a short one stand for billions of
# values.
_MOST_BYTES, _MOST_VALUES, _MOST_DEPTH, _MOST_FILES = 200_000, 100_000, 30, 50
_MERGE, _FLOAT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:float"


def read(path: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """A config file with its ``_BASE_`` files and then ``KEY VALUE`` pairs merged, as a plain dict.

    Args:
        path: a file, or ``kd2://NAME`` for one that the package brings. A LazyConfig file of Detectron2 (``.py``), here
            or as a base, is not opened: it becomes the value of ``MODEL.LAZY_CONFIG``.
        options: pairs such as ``["SOLVER.MAX_ITER", "9"]``; a value is the Python literal that it spells, or text. Of
            two values of one key the last wins, as with Detectron2, and a warning says so.

    Raises:
        ConfigError: a missing or unsafe file; text that is no YAML mapping of texts, numbers, True, False and None; a
            key that stands twice in one mapping; more than a config has; an odd number of options.
    """
    loaded = _with_bases(config_path(path), (), iter(range(_MOST_FILES)))
    _set(loaded, options)
    return loaded


def with_options(loaded: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """A copy of a plain dict with ``KEY VALUE`` pairs merged; see ``read``."""
    merged = _unshared(dict(loaded))
    _set(merged, options)
    return merged


def framework_of(loaded: Mapping[str, Any], path: str) -> str:
    """The value of ``FRAMEWORK`` in a dict from ``read`` (default detectron2); raises ConfigError when unknown."""
    name = loaded.get("FRAMEWORK", "detectron2")
    if name not in FRAMEWORKS:
        raise ConfigError(f"FRAMEWORK in {path} is {shown(name)}; {nearest(name, FRAMEWORKS)}")
    return str(name)


def literal(text: Any) -> Any:
    """The Python literal that a text spells ("1e-3", "(800,)", "True"), otherwise what was given."""
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


# The one text behind a tag of Python that is read, as what it stands for: Detectron2's Base-RetinaNet.yaml has it.
_ANCHORS = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key which stands twice in one mapping, where the last would win without a word."""

    merged = 0

    def computed(self, node: yaml.Node) -> list[list[float]]:
        """The anchors of Detectron2's RetinaNet; no other code behind the tag is read."""
        if not isinstance(node, yaml.SequenceNode) or self.construct_sequence(node) != [_ANCHORS]:
            raise yaml.constructor.ConstructorError(None, None, "Python code is not evaluated", node.start_mark)
        return [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]

    def compose_mapping_node(self, anchor: str) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"line {line}: a key is a list or a mapping, expected text")
            if (key.tag, key.value) in seen:
                raise ConfigError(f"line {line}: the key {key.value} stands twice in one mapping")
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            if key.tag == _MERGE and not isinstance(value, yaml.MappingNode):
                raise ConfigError(
                    f"line {key.start_mark.line + 1}: << takes one mapping: of two, a key could win twice"
                )
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > _MOST_VALUES:
            raise ConfigError(f"expected at most {_MOST_VALUES} values; its aliases repeat one another")


# YAML 1.1 takes 1e-3, without a dot, for text.
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _Loader.computed)


def _with_bases(path: str, children: tuple[str, ...], budget: Iterator[int]) -> dict[str, Any]:
    real = os.path.realpath(path)
    if real in children:
        raise ConfigError(f"config file {path}: its _BASE_ files lead back to itself")
    if next(budget, None) is None:
        raise ConfigError(f"config file {path}: expected at most {_MOST_FILES} files together with all _BASE_ files")
    loaded = _file(path)
    bases = loaded.pop("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise ConfigError(f"config file {path}: _BASE_ is {shown(base)}, expected a file or a list of files")
        _override(merged, _with_bases(_base_path(base, path), (*children, real), budget), path)
    _override(merged, loaded, path)
    return merged


def _base_path(base: str, path: str) -> str:
    return found_path(base, path) or os.path.join(os.path.dirname(path), base)


def _file(path: str) -> dict[str, Any]:
    if path.endswith(".py"):  # read by the engine, where the command line allows it
        return {"MODEL": {"LAZY_CONFIG": os.path.abspath(path)}}
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(f"expected at most {_MOST_BYTES} bytes of YAML")
        loaded = yaml.load(text.decode("utf-8"), _Loader)
        if not isinstance(loaded, dict):
            raise ConfigError(f"expected a mapping of keys, found {type(loaded).__name__}")
        _check_plain(loaded)
        loaded = _unshared(loaded)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path}: expected UTF-8 text: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"config file {path}: {' '.join(str(error).split())}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"config file {path}: not a safe YAML mapping: {' '.join(str(error).split())}") from None
    return loaded


def _unshared(value: Any) -> Any:
    """A copy in which every alias of YAML is a value of its own: who overrides one of them changes no other."""
    if isinstance(value, dict):
        return {key: _unshared(child) for key, child in value.items()}
    return [_unshared(child) for child in value] if isinstance(value, list) else value


def _check_plain(loaded: Mapping[str, Any]) -> None:
    """Refuse what is no text, number, True, False or None, and more of it than a config has."""
    waiting, seen = [("", 0, loaded)], 0
    while waiting:
        name, depth, value = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ConfigError(f"expected at most {_MOST_VALUES} values; its aliases repeat one another")
        if depth > _MOST_DEPTH:
            raise ConfigError(f"{name[:80]}... is nested more than {_MOST_DEPTH} times")
        if isinstance(value, Mapping):
            for key in value:
                if (
                    not isinstance(key, (str, int))
                    or isinstance(key, bool)
                    or not _is_plain(key)
                    or len(str(key)) > 200
                ):
                    raise ConfigError(f"{name or 'the file'} has the key {shown(key)}, expected text; quotes make one")
            waiting += [(f"{name}.{key}".lstrip("."), depth + 1, child) for key, child in value.items()]
        elif isinstance(value, (list, tuple)):
            waiting += [(name, depth + 1, child) for child in value]
        elif not _is_plain(value):
            found = f"{shown(value)} ({type(value).__name__})"
            raise ConfigError(
                f"{name} is {found}, expected a number, True, False, None or text on one line (quotes help)"
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not any(ord(x) < 32 or 0xD800 <= ord(x) < 0xE000 for x in value)
    return value is None or isinstance(value, float) or isinstance(value, int) and is_small(value)


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
    for other in _INSTEAD.get(key, ()):
        node.pop(other, None)
    node[key] = value


def _set(loaded: dict[str, Any], options: Sequence[str]) -> None:
    late = next((word for word in map(str, options) if word.startswith("--")), "")
    if late:
        raise ConfigError(f"{late} stands among the KEY VALUE pairs, which come last")
    if len(options) % 2:
        raise ConfigError(f"expected KEY VALUE pairs, found {len(options)} words: {' '.join(map(str, options))}")
    keys = [str(key) for key in options[::2]]
    for place, (key, text) in enumerate(zip(keys, options[1::2], strict=True)):
        _tell_replaced(key, keys[:place])
        node, value = loaded, literal(text)
        if isinstance(value, Mapping) and not any(key == x or key.startswith(f"{x}.") for x in _OPEN):
            raise ConfigError(f"{key} is given a group of keys, expected the keys in it, such as {key}.KEY VALUE")
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: {parent} is a value, not a group of keys")
        _put(node, last, value)
    _check_plain(loaded)


def _tell_replaced(key: str, before: Sequence[str]) -> None:
    """Warn of pairs before that of ``key`` which it takes the place of."""
    group, _, last = key.rpartition(".")
    others = {key, *(f"{group}.{x}" for x in _INSTEAD.get(last, ()))}
    for lost in dict.fromkeys(x for x in before if x in others or x.startswith(f"{key}.")):
        found = f"{key} is given twice, the last counts" if lost == key else f"{key} replaces {lost}, given before it"
        logger.warning("KEY VALUE: %s", found)
