"""The teacher: a plain Detectron2 model of its own config file and weights."""

import os
from dataclasses import dataclass

from detectron2.config import CfgNode, get_cfg
from torch import nn

from kd2.engine.detectron2 import zoo
from kd2.engine.detectron2.checkpoint import CheckedCheckpointer
from kd2.engine.detectron2.config import add_d2_config
from kd2.engine.detectron2.models import build_plain, class_keys
from kd2.config import framework_of, merge, overrides, read
from kd2.distill import ConfigError


@dataclass(frozen=True)
class Guide:
    """A teacher, its config, and the matched share (0 to 1) of its weights."""

    model: nn.Module
    cfg: CfgNode
    matched: float


def build_teacher(cfg: CfgNode, student: nn.Module) -> Guide:
    """The model of ``KD.TEACHER.CONFIG_FILE`` with ``KD.TEACHER.WEIGHTS``, on the student's device.

    Raises:
        ConfigError: missing config file or weights; weights that do not match exactly (unless
            ``KD.TEACHER.ALLOW_PARTIAL``); another framework; other class counts than the student's.
    """
    own = teacher_config(cfg)
    name = own.MODEL.META_ARCHITECTURE
    distilled = name == "Distiller"  # a student of an earlier run
    model = build_plain(own, own.KD.STUDENT.META_ARCHITECTURE if distilled else name, "KD.TEACHER.CONFIG_FILE")
    _same_classes(class_keys(student, cfg), class_keys(model, own))
    loader = CheckedCheckpointer(model, "KD.TEACHER.WEIGHTS", cfg.KD.ALLOW_PICKLE, cfg.KD.TEACHER.ALLOW_PARTIAL)
    loader.load(weights_file(cfg.KD.TEACHER.WEIGHTS))
    return Guide(model, own, loader.match.share)


def teacher_config(cfg: CfgNode) -> CfgNode:
    """Detectron2's defaults, the teacher's own file (a path or a zoo name), then ``KD.TEACHER.OPTS``."""
    name, options = cfg.KD.TEACHER.CONFIG_FILE, list(cfg.KD.TEACHER.OPTS)
    if not name:
        raise ConfigError("KD.TEACHER.CONFIG_FILE is empty, but KD.LOSSES has losses that need a teacher")
    own = add_d2_config(get_cfg())
    if os.path.isfile(name):
        loaded = read(name, options)
        if framework_of(loaded, name) != "detectron2":
            raise ConfigError(f"KD.TEACHER.CONFIG_FILE: FRAMEWORK in {name} is not detectron2, the student's")
        merge(own, loaded)
    else:
        # Detectron2's own packaged file: the only one whose YAML tags may be evaluated.
        own.merge_from_file(zoo.config_path(name, "KD.TEACHER.CONFIG_FILE"))
        merge(own, overrides(options))
    own.MODEL.DEVICE = cfg.MODEL.DEVICE
    own.MODEL.TIMM.PRETRAINED = False
    return own


def weights_file(name: str) -> str:
    """A path or URL as it is; a zoo name as the URL of its weights."""
    if not name:
        raise ConfigError("KD.TEACHER.WEIGHTS is empty, expected a path, a URL or the name of a zoo config")
    if os.path.isfile(name) or not name.endswith((".yaml", ".yml")):
        return name
    return zoo.weights_url(name, "KD.TEACHER.WEIGHTS")


def flip_colors(student: str, teacher: str) -> bool:
    """Whether the teacher reads the channels in the other order; raises ConfigError when no order is the answer."""
    if student == teacher:
        return False
    if {student, teacher} == {"RGB", "BGR"}:
        return True
    raise ConfigError(f"INPUT.FORMAT: student {student!r}, teacher {teacher!r}; only RGB and BGR can be converted")


def _same_classes(student: dict[str, tuple[str, int]], teacher: dict[str, tuple[str, int]]) -> None:
    for kind in student.keys() & teacher.keys():
        (key, count), (teacher_key, teacher_count) = student[kind], teacher[kind]
        if count != teacher_count:
            raise ConfigError(f"{teacher_key} of the teacher is {teacher_count}, {key} of the student is {count}")
