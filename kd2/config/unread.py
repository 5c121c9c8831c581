"""Keys of a config that would count for nothing, and arguments that would open a door: all are refused."""

from collections.abc import Iterator, Mapping
from typing import Any

from fvcore.common.config import CfgNode

from kd2.config.keys import KEYS
from kd2.config.keys.detectron2 import ARCHITECTURES
from kd2.distill import ConfigError

# Arguments of a library, and those by which timm and torchvision come to weights.
_LIBRARY_ARGS = ("MODEL.ARGS", "MODEL.BACKBONE.ARGS", "MODEL.TIMM.ARGS")
_WEIGHTS = ("cache_dir", "model_cfg", "feature_cfg", "progress")


def _given(loaded: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full name and default of every key in ``loaded``; a group without a fixed set of keys counts as one key."""
    for key, value in loaded.items():
        default = defaults.get(key)
        open_group = isinstance(default, CfgNode) and default.is_new_allowed()
        if isinstance(value, Mapping) and isinstance(default, Mapping) and not open_group:
            yield from _given(value, default, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", default


def _at(cfg: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        cfg = cfg[key]
    return cfg


def below(name: str, prefix: str) -> bool:
    """Whether a key is ``prefix`` or stands in that group."""
    return name == prefix or name.startswith(f"{prefix}.")


def refuse_unread(cfg: CfgNode, loaded: Mapping[str, Any], defaults: CfgNode) -> None:
    """Refuse a key that is given, with another value than its default, and that the student does not read."""
    for name, value in _given(loaded, defaults):
        if value != _at(cfg, name):
            _refuse(name, cfg)


def architecture_of(cfg: CfgNode) -> str:
    """The student's ``META_ARCHITECTURE``, whichever key names it; empty for a classifier."""
    name = cfg.MODEL.get("META_ARCHITECTURE", "")
    return cfg.KD.STUDENT.META_ARCHITECTURE if name == "Distiller" else name


def _refuse(name: str, cfg: CfgNode) -> None:
    student = architecture_of(cfg)
    key = KEYS[cfg.FRAMEWORK].get(name)
    if key is None or not key.readers or cfg.FRAMEWORK == "detectron2" and student not in ARCHITECTURES:
        return
    if student not in key.readers:
        raise ConfigError(f"{name} is given, but {student} does not read it; only {', '.join(key.readers)} do")


def refuse_weights(cfg: CfgNode) -> None:
    """Refuse arguments of a library by which it would read or fetch weights."""
    for name in _LIBRARY_ARGS:
        node: Mapping[str, Any] = cfg
        for key in name.split("."):
            node = node.get(key, {})
        for key in node:
            if key.startswith(("pretrained", "weights", "checkpoint")) or key in _WEIGHTS:
                raise ConfigError(f"{name}.{key}: a library reads no file by its arguments; the keys WEIGHTS name one")


def refuse_foreign(defaults: CfgNode, loaded: Mapping[str, Any]) -> None:
    """Refuse a key that only another framework reads, with that reason."""
    node = loaded.get("KD")
    if isinstance(node, Mapping) and "ALLOW_PICKLE" in node:
        raise ConfigError("KD.ALLOW_PICKLE: a config cannot let files run code; the command line can: --allow-pickle")
    for name, default in _given(loaded, defaults):
        readers = [other for other, keys in KEYS.items() if any(below(key, name) for key in keys)]
        if default is None and readers and defaults.FRAMEWORK not in readers:
            raise ConfigError(
                f"{name}: FRAMEWORK {defaults.FRAMEWORK} does not read this key, only {' and '.join(readers)}"
            )
