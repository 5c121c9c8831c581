"""Detectron2's config with kd2's keys: of a run, of its teacher, and of the student that a run leaves."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from kd2.config import add_kd_config, assemble, load_teacher_config, teacher_blocks
from kd2.distill import ConfigError
from kd2.engine.detectron2 import lazy, projects, zoo
from kd2.engine.detectron2.lazy_keys import set_defaults
from kd2.runs.files import write_atomically
from kd2.runs.folder import FINAL

logger = logging.getLogger(__name__)


def add_d2_config(cfg: CfgNode) -> CfgNode:
    """Add every key that training with Detectron2 reads to Detectron2's ``get_cfg()``; returns ``cfg``."""
    add_kd_config(cfg)
    return projects.add_project_keys(cfg)


def defaults_of(loaded: Mapping[str, Any], config_file: str) -> CfgNode:
    """Detectron2's and kd2's defaults of a config, those of its LazyConfig file included: see ``set_defaults``."""
    return set_defaults(add_d2_config(get_cfg()), loaded, config_file)


def run_config(loaded: Mapping[str, Any], config_file: str, trains: bool = True) -> CfgNode:
    """The config of a run: Detectron2's and kd2's defaults, then what ``kd2.config.read`` gave of ``config_file``.

    ``MODEL.META_ARCHITECTURE`` names the student, whichever of the two forms the file has, see ``distill_cfg``.

    Args:
        trains: whether the precision of training has to be one of the device.

    Raises:
        ConfigError: see ``kd2.config.assemble``; lists whose lengths do not fit; a device that is absent.
    """
    cfg = plain_cfg(assemble(defaults_of(loaded, config_file), loaded, config_file))
    _check_lengths(cfg)
    _choose_device(cfg, given="DEVICE" in loaded.get("MODEL", {}))
    if trains:
        _check_precision(cfg)
    return cfg


def teacher_config(cfg: CfgNode, node: str = "KD.TEACHER") -> CfgNode:
    """Detectron2's defaults, a teacher's own file (a path or a zoo name), then its ``OPTS``.

    Args:
        node: a name from ``kd2.config.teacher_blocks``.

    Raises:
        ConfigError: no file is named, it does not exist or is of another framework; see ``kd2.config.assemble``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    block = teacher_blocks(cfg)[node]
    name = block["CONFIG_FILE"]
    if name and not os.path.exists(name):
        block["CONFIG_FILE"] = zoo.config_path(name, f"{node}.CONFIG_FILE")
    own = plain_cfg(load_teacher_config(cfg, node, defaults_of))
    own.MODEL.DEVICE = cfg.MODEL.DEVICE
    own.MODEL.TIMM.PRETRAINED = False
    return own


def distill_cfg(cfg: CfgNode) -> CfgNode:
    """The config that ``build_model`` makes the whole Distiller of; ``cfg`` itself stays as it is.

    ``MODEL.META_ARCHITECTURE`` becomes ``Distiller``, and ``KD.STUDENT.META_ARCHITECTURE`` the student's.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    return cfg.clone() if name == "Distiller" else _named(cfg, "Distiller", name)


def plain_cfg(cfg: CfgNode) -> CfgNode:
    """Undo ``distill_cfg``: ``MODEL.META_ARCHITECTURE`` names the student. Returns a clone."""
    wrapped = cfg.MODEL.META_ARCHITECTURE == "Distiller"
    return _named(cfg, cfg.KD.STUDENT.META_ARCHITECTURE, "") if wrapped else cfg.clone()


def write_student(cfg: CfgNode, folder: str) -> None:
    """Write ``student.yaml``: the config of the student alone, with its final weights, for plain Detectron2.

    Of a student by a LazyConfig file it is one as Detectron2's ``LazyConfig.load`` reads it.
    """
    weights, path = os.path.join(folder, FINAL), os.path.join(folder, "student.yaml")
    if cfg.MODEL.LAZY_CONFIG:
        lazy.save_student(cfg, weights, path)
    else:
        write_atomically(student_cfg(cfg, weights).dump(), path)


def student_cfg(cfg: CfgNode, weights: str) -> CfgNode:
    """The config of the student alone: the keys of Detectron2's ``get_cfg()``, and those that its parts need besides.

    Args:
        weights: becomes ``MODEL.WEIGHTS``.
    """
    own, defaults = cfg.clone(), add_d2_config(get_cfg())
    own.defrost()
    own.MODEL.WEIGHTS, own.MODEL.TIMM.PRETRAINED = weights, False
    own.MODEL.EMA, own.MODEL.CHANNELS_LAST = defaults.MODEL.EMA, defaults.MODEL.CHANNELS_LAST
    for part in ("TIMM", "ESPNET"):
        if part.lower() not in own.MODEL.BACKBONE.NAME:
            own.MODEL[part] = defaults.MODEL[part]
    _reduce(own, get_cfg(), defaults, inside_model=False)
    return own


def _reduce(node: CfgNode, known: CfgNode, defaults: CfgNode, inside_model: bool) -> None:
    """Drop the keys that are not ``known``, unless they describe the model and have another value than the default."""
    for key, value in list(node.items()):
        if key not in known:
            if not inside_model or value == defaults[key]:
                del node[key]
        elif isinstance(value, CfgNode):
            _reduce(value, known[key], defaults[key], inside_model or key == "MODEL")


def _named(cfg: CfgNode, name: str, student: str) -> CfgNode:
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.KD.STUDENT.META_ARCHITECTURE = name, student
    if frozen:
        cfg.freeze()
    return cfg


def _check_lengths(cfg: CfgNode) -> None:
    """Raises ConfigError for lists that Detectron2 would only assert something about."""
    for name in ("RPN", "ROI_HEADS", "RETINANET"):
        thresholds, labels = list(cfg.MODEL[name].IOU_THRESHOLDS), list(cfg.MODEL[name].IOU_LABELS)
        if thresholds != sorted(thresholds) or len(labels) != len(thresholds) + 1:
            raise ConfigError(
                f"MODEL.{name}.IOU_THRESHOLDS is {thresholds} and IOU_LABELS {labels}, expected rising thresholds and "
                "one label more"
            )
    if len(cfg.MODEL.PIXEL_MEAN) != len(cfg.MODEL.PIXEL_STD):
        raise ConfigError(
            f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}, expected as many numbers as PIXEL_MEAN, {cfg.MODEL.PIXEL_MEAN}"
        )
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not sizes or cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        wanted = "two sizes for a range" if sizes else "one size or more"
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN is {list(sizes)}, expected {wanted}")


def _choose_device(cfg: CfgNode, given: bool) -> None:
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        raise ConfigError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, expected cpu or cuda") from None
    if torch.cuda.is_available() or not cfg.MODEL.DEVICE.startswith("cuda"):
        pass
    elif given:
        raise ConfigError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but this machine has no CUDA device; use cpu")
    else:
        logger.info("MODEL.DEVICE: no CUDA device, training on the CPU")
        cfg.MODEL.DEVICE = "cpu"


def _check_precision(cfg: CfgNode) -> None:
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.PRECISION == "fp16" and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError("SOLVER.AMP.PRECISION is 'fp16', which needs a CUDA device; bf16 trains on the CPU too")
