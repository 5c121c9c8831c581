"""The config of a run and those of its teachers: read once, merged, with its paths found, checked as a text.

No model, checkpoint or data set is touched here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from kd2.config.keys import KEYS, add_defaults
from kd2.config.merging import merge
from kd2.config.paths import RUN_CONFIG, config_path, resolve_paths
from kd2.config.reading import framework_of, read, with_options
from kd2.config.schedule import check_schedule
from kd2.config.training import check_training
from kd2.config.unread import below, refuse_foreign, refuse_unread, refuse_weights
from kd2.data.images import check_pixel_range
from kd2.distill import ConfigError, Tap, naming, nearest
from kd2.distill import values as v
from kd2.distill.tap import refuse_repeated
from kd2.distill.values import check_value, shown
from kd2.losses import check_losses
from kd2.zoo.detectron2 import is_name
from kd2.zoo.torchvision_configs import torchvision_config

_TEACHER_BLOCK: dict[str, Any] = {"CONFIG_FILE": str, "WEIGHTS": str, "OPTS": Sequence[Any]}
# Further ones of dense tasks teach losses of their own.
_FURTHER = {"TAPS": v.Texts, "CLASSES": v.Texts, "WEIGHT": v.Positive}
# What is read of a teacher's own config: it sees the images of the student's.
_TEACHER_READS = ("MODEL", "INPUT.FORMAT", "INPUT.SIZE", "KD.STUDENT.META_ARCHITECTURE", "VERSION", "FRAMEWORK")


def load(config_file: str, options: Sequence[str] = (), defaults: CfgNode | None = None) -> CfgNode:
    """The config of a run: the defaults of its FRAMEWORK, the file with its bases, then ``KEY VALUE`` pairs.

    Args:
        config_file: a path, or ``kd2://NAME`` for a config that the package brings.
        options: pairs such as ``["SOLVER.MAX_ITER", "9"]``.
        defaults: with FRAMEWORK detectron2 the config with every key that is read, which only the engine can bring.

    Raises:
        ConfigError: see ``read``, ``merge`` and ``check``.
    """
    path = config_path(config_file)
    loaded = read(path, options)
    return assemble(defaults_of(framework_of(loaded, path)) if defaults is None else defaults, loaded, path)


def assemble(defaults: CfgNode, loaded: Mapping[str, Any], config_file: str) -> CfgNode:
    """A new config from the defaults and a dict from ``read``, with its paths resolved, and checked."""
    framework = framework_of(loaded, config_file)
    if framework != defaults.FRAMEWORK:
        raise ConfigError(f"FRAMEWORK in {config_file} is {framework!r}, expected {defaults.FRAMEWORK!r} here")
    refuse_foreign(defaults, loaded)
    cfg = merge(defaults.clone(), loaded)
    if "TEACHERS" in cfg.KD:
        known = _TEACHER_BLOCK | ({} if framework == "timm" else _FURTHER)
        cfg.KD.TEACHERS = [_teacher_block(x, f"KD.TEACHERS[{i}]", known) for i, x in enumerate(cfg.KD.TEACHERS)]
    resolve_paths(cfg, config_file)
    check(cfg, loaded, defaults)
    return cfg


def check(cfg: CfgNode, loaded: Mapping[str, Any], defaults: CfgNode) -> None:
    """Judge a merged config.

    Args:
        cfg: the defaults with ``loaded`` merged.
        loaded: what the file and the command line say; a key whose value is the default's counts as not given.

    Raises:
        ConfigError: a key that nobody reads, a student named twice, a schedule that goes backwards, losses that their
            own check refuses. Names the key, what was found and what was expected.
    """
    refuse_weights(cfg)
    check_pixel_range(cfg.INPUT.PIXEL_RANGE)
    _check_student(cfg)
    check_schedule(cfg)
    check_training(cfg)
    refuse_unread(cfg, loaded, defaults)
    _check_names("MODEL.CLASSES", cfg.MODEL.get("CLASSES", ()))
    for node, block in teacher_blocks(cfg).items():
        _check_opts(f"{node}.OPTS", block["OPTS"])
        _check_names(f"{node}.CLASSES", block.get("CLASSES", ()))
    for node in ("KD.STUDENT", *teacher_blocks(cfg)):
        _check_taps(*taps_of(cfg, node.removeprefix("KD.")))
    check_losses(cfg.KD.LOSSES)


def taps_of(cfg: CfgNode, side: str) -> tuple[list[str], str]:
    """The taps of one side, and the name of the key that gives them, for errors.

    Args:
        side: ``STUDENT``, ``TEACHER``, or of a further teacher ``TEACHERS[0]`` and so on.
    """
    node = f"KD.{side}"
    own = list(({"KD.STUDENT": cfg.KD.STUDENT} | teacher_blocks(cfg))[node].get("TAPS", ()))
    return (own, f"{node}.TAPS") if own else (list(cfg.KD.TAPS), "KD.TAPS")


def teacher_blocks(cfg: CfgNode) -> dict[str, Mapping[str, Any]]:
    """The teachers by the name of their node: ``KD.TEACHER``, then ``KD.TEACHERS[0]`` and so on.

    Each has at least the keys CONFIG_FILE, WEIGHTS and OPTS.
    """
    return {"KD.TEACHER": cfg.KD.TEACHER} | {f"KD.TEACHERS[{i}]": x for i, x in enumerate(cfg.KD.get("TEACHERS", []))}


def load_teacher_config(
    cfg: CfgNode,
    node: str = "KD.TEACHER",
    defaults: Callable[[Mapping[str, Any], str], CfgNode] | None = None,
    published: Mapping[str, Any] | None = None,
) -> CfgNode:
    """A teacher's own config: ``CONFIG_FILE``, whose paths are relative to itself, then ``OPTS``.

    ``CONFIG_FILE`` may be the folder of a run, which holds its config.

    What that file says of losses and of a teacher is left out: nothing learns there.

    Args:
        cfg: the student's config, from ``load``.
        node: a name from ``teacher_blocks``.
        defaults: with FRAMEWORK detectron2 what gives the defaults, see ``load``, of what ``read`` gave and its file.
        published: what a name in ``CONFIG_FILE`` stands for that only the engine knows; no file is read then. Names of
            Detectron2's zoo are known here, for FRAMEWORK torchvision.

    Raises:
        ConfigError: no file is named or it does not exist; its FRAMEWORK is not the student's; see ``load``.
    """
    block = teacher_blocks(cfg)[node]
    name, key = block["CONFIG_FILE"], f"{node}.CONFIG_FILE"
    if not name:
        raise ConfigError(f"{key} is empty, but KD.LOSSES has losses that need a teacher")
    path, options = config_path(name), [str(x) for x in block["OPTS"]]
    if os.path.isdir(path):
        path = os.path.join(path, RUN_CONFIG)
    if published is None and cfg.FRAMEWORK == "torchvision" and is_name(name) and not os.path.isfile(path):
        published = torchvision_config(name, key)
    if published is None and not os.path.isfile(path):
        raise ConfigError(f"{key}: {path!r} is no file beside the config or in the working folder")
    loaded = read(path, options) if published is None else with_options(published, options)
    if framework_of(loaded, path) != cfg.FRAMEWORK:
        raise ConfigError(f"{key}: FRAMEWORK in {path} is not {cfg.FRAMEWORK}, the student's")
    wrapped = loaded.pop("KD", {}).get("STUDENT", {}).get("META_ARCHITECTURE", "")
    if wrapped:
        loaded["KD"] = {"STUDENT": {"META_ARCHITECTURE": wrapped}}
    return assemble(defaults_of(cfg.FRAMEWORK) if defaults is None else defaults(loaded, path), loaded, path)


def defaults_of(framework: str) -> CfgNode:
    """A new config with every key of a framework; raises ConfigError for Detectron2, whose keys the engine has."""
    if framework == "detectron2":
        raise ConfigError(
            "FRAMEWORK is detectron2, whose defaults need Detectron2; install it or name another framework"
        )
    return _with_keys(CfgNode(), framework)


def add_kd_config(cfg: CfgNode) -> CfgNode:
    """Add kd2's keys to a config such as Detectron2's ``get_cfg()``, whose own keys stay; returns ``cfg``."""
    return _with_keys(cfg, "detectron2")


def _with_keys(cfg: CfgNode, framework: str) -> CfgNode:
    add_defaults(cfg, KEYS[framework].values()).FRAMEWORK = framework
    return cfg


def _teacher_block(block: Any, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(block, Mapping):
        raise ConfigError(f"{name} is {shown(block)}, expected a group of keys: {', '.join(known)}")
    for key, value in block.items():
        if key not in known:
            raise ConfigError(f"{name}.{key}: no such key; {nearest(key, known)}")
        check_value(f"{name}.{key}", value, known[key])
    return {"CONFIG_FILE": "", "WEIGHTS": "", "OPTS": []} | dict(block)


def _check_opts(name: str, words: Sequence[Any]) -> None:
    if len(words) % 2:
        raise ConfigError(f"{name}: expected KEY VALUE pairs, found {len(words)} words: {' '.join(map(str, words))}")
    for key in map(str, words[::2]):
        if not any(below(key, prefix) for prefix in _TEACHER_READS):
            raise ConfigError(
                f"{name}: {key} is not read of a teacher; expected keys of {', '.join(_TEACHER_READS[:3])}"
            )


def _check_names(key: str, names: Sequence[str]) -> None:
    """Class names are how outputs of two networks find each other."""
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ConfigError(f"{key} has {twice[0]!r} twice, expected each class once")


def _check_taps(taps: Sequence[str], key: str) -> None:
    with naming(key):
        parsed = [Tap.parse(text) for text in taps]
    refuse_repeated(parsed, key)


def _check_student(cfg: CfgNode) -> None:
    """With FRAMEWORK detectron2 the student stands in one place."""
    if "META_ARCHITECTURE" not in cfg.KD.STUDENT:
        return
    wrapped, name = cfg.KD.STUDENT.META_ARCHITECTURE, cfg.MODEL.META_ARCHITECTURE
    if name == "Distiller" and not wrapped:
        raise ConfigError("MODEL.META_ARCHITECTURE is 'Distiller', expected the student's, such as RetinaNet")
    if name != "Distiller" and wrapped:
        raise ConfigError(
            f"KD.STUDENT.META_ARCHITECTURE is {wrapped!r}, but MODEL.META_ARCHITECTURE names the student: {name!r}"
        )
