"""Reading config files: safe YAML, ``_BASE_``, and errors that name the key."""

import ast
import os
from collections.abc import Mapping
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from kd2.distill import ConfigError, nearest

FRAMEWORKS = ("detectron2", "torchvision", "timm")


def read(path: str, options: list[str] = ()) -> dict[str, Any]:
    """A config file with its ``_BASE_`` files and then ``KEY VALUE`` pairs merged, as a plain dict.

    Raises:
        ConfigError: a missing or unsafe file, text that is no YAML mapping, an odd number of options.
    """
    try:
        loaded = CfgNode.load_yaml_with_base(path, allow_unsafe=False)
    except OSError as error:
        raise ConfigError(f"config file {error.filename or path}: {error.strerror or 'cannot be read'}") from None
    except RecursionError:
        raise ConfigError(f"config file {path}: its _BASE_ files lead back to itself") from None
    except (TypeError, AttributeError):
        raise ConfigError(f"config file {path}: expected a mapping of keys, here and in its _BASE_ files") from None
    except (yaml.YAMLError, ValueError, AssertionError) as error:
        raise ConfigError(f"config file {path}: not a safe YAML mapping: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file {path}: expected a mapping of keys, found {type(loaded).__name__}")
    _set(loaded, options)
    return loaded


def overrides(options: list[str]) -> dict[str, Any]:
    """``KEY VALUE`` pairs as a nested dict for ``merge``; raises ConfigError for an odd number of words."""
    loaded: dict[str, Any] = {}
    _set(loaded, options)
    return loaded


def _set(loaded: dict[str, Any], options: list[str]) -> None:
    if len(options) % 2:
        raise ConfigError(f"expected KEY VALUE pairs, found {len(options)} words: {' '.join(map(str, options))}")
    for key, text in zip(options[::2], options[1::2]):
        node = loaded
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: {parent} is a value, not a group of keys")
        node[last] = _literal(text)


def framework_of(loaded: Mapping[str, Any], path: str) -> str:
    """The value of ``FRAMEWORK`` (default detectron2)."""
    name = loaded.get("FRAMEWORK", "detectron2")
    if name not in FRAMEWORKS:
        raise ConfigError(f"FRAMEWORK in {path} is {name!r}; {nearest(name, FRAMEWORKS)}")
    return name


def merge(cfg: CfgNode, loaded: Mapping[str, Any]) -> CfgNode:
    """Merge a dict from ``read`` into the defaults ``cfg``; returns ``cfg``.

    Raises:
        ConfigError: an unknown key (with near names), or a value of another type than the default's.
    """
    _merge(cfg, loaded, "")
    return cfg


def _merge(node: CfgNode, loaded: Mapping[str, Any], prefix: str) -> None:
    for key, value in loaded.items():
        name = f"{prefix}{key}"
        if key not in node:
            if not node.is_new_allowed():
                raise ConfigError(f"{name}: no such key; {nearest(key, node)}")
            node[key] = _free(value, type(node))
        elif isinstance(node[key], CfgNode):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name} is {value!r}, expected a group of keys: {', '.join(node[key]) or 'any'}")
            _merge(node[key], value, f"{name}.")
        else:
            node[key] = _converted(name, value, node[key])


def _converted(name: str, value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``: int for float and list for tuple (and back) are the same thing."""
    if isinstance(value, str) and not isinstance(default, str):
        value = _literal(value)
    if default is None or value is None and name.endswith("_BIAS"):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if type(value) is not type(default):
        raise ConfigError(f"{name} is {value!r} ({type(value).__name__}), expected {type(default).__name__} like {default!r}")
    return value


def _literal(text: str) -> Any:
    """The Python literal that ``text`` spells ("1e-3", "(800,)", "True"), otherwise the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _free(value: Any, kind: type[CfgNode]) -> Any:
    """A value below a node that takes new keys; keys become texts, the only ones that a node can write."""
    if isinstance(value, Mapping):
        return kind({str(key): _free(child, kind) for key, child in value.items()}, new_allowed=True)
    return _literal(value) if isinstance(value, str) else value


def resolve_teacher(cfg: CfgNode, config_file: str) -> None:
    """Make ``KD.TEACHER.CONFIG_FILE`` absolute when it is a file beside ``config_file`` or in the working folder."""
    found = teacher_file(cfg.KD.TEACHER.CONFIG_FILE, config_file)
    if found:
        cfg.KD.TEACHER.CONFIG_FILE = found


def teacher_file(name: str, config_file: str) -> str | None:
    """The teacher's config file as an existing path: relative to the student's file or to the working folder, else None."""
    for folder in (os.path.dirname(os.path.abspath(config_file)), os.getcwd()):
        path = os.path.normpath(os.path.join(folder, name))
        if os.path.isfile(path):
            return path
    return None


def assemble(defaults: CfgNode, loaded: Mapping[str, Any], config_file: str) -> CfgNode:
    """A new config from the defaults and a dict from ``read``, with its paths resolved, and checked."""
    cfg = merge(defaults.clone(), loaded)
    resolve_teacher(cfg, config_file)
    for key, value, choices in (
        ("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ("SGD", "AdamW")),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, ("value", "norm", "full_model")),
    ):
        if value not in choices:
            raise ConfigError(f"{key} is {value!r}; {nearest(value, choices)}")
    return cfg


def taps_of(cfg: CfgNode, side: str) -> tuple[list[str], str]:
    """The taps of one side, STUDENT or TEACHER, and the name of the key that gives them, for errors."""
    own = list(cfg.KD[side].TAPS)
    return (own, f"KD.{side}.TAPS") if own else (list(cfg.KD.TAPS), "KD.TAPS")


def load_teacher_config(cfg: CfgNode, node: str, defaults: CfgNode) -> CfgNode:
    """The teacher's own config: ``CONFIG_FILE``, then ``OPTS``."""
    name = cfg.KD.TEACHER.CONFIG_FILE
    if not name:
        raise ConfigError(f"{node}.CONFIG_FILE is empty, but KD.LOSSES has losses that need a teacher")
    loaded = read(name, [str(x) for x in cfg.KD.TEACHER.OPTS])
    if framework_of(loaded, name) != cfg.FRAMEWORK:
        raise ConfigError(f"{node}.CONFIG_FILE: FRAMEWORK in {name} is not {cfg.FRAMEWORK}, the student's")
    return assemble(defaults, loaded, name)
