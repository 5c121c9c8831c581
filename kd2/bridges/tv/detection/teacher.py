"""The teacher of a torchvision detector."""

from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import nn

from kd2.bridges.fit.teacher import load_teacher, teacher_config
from kd2.bridges.tv.detection.models import NoResize, build_detector, num_classes
from kd2.config import torchvision_config
from kd2.core import ConfigError


@dataclass(frozen=True)
class Guide:
    """The teacher's model, whether its colour order is the student's reversed, and the matched share of its weights."""

    model: nn.Module
    flip: bool
    format: str
    classes: int
    matched: float


def build_teacher(cfg: CfgNode, student_key: str, student_classes: int) -> Guide:
    """The model of ``KD.TEACHER.CONFIG_FILE`` with ``KD.TEACHER.WEIGHTS``.

    Raises:
        ConfigError: see ``teacher_config`` and ``load_teacher``; another number of classes.
    """
    own = teacher_config(cfg, torchvision_config())
    key, classes = num_classes(own)
    if classes != student_classes:
        raise ConfigError(f"{key} of the teacher is {classes}, {student_key} of the student is {student_classes}")
    model = build_detector(own)
    model.transform = NoResize(model.transform)
    matched = load_teacher(model, cfg)
    return Guide(model, own.INPUT.FORMAT != cfg.INPUT.FORMAT, own.INPUT.FORMAT, classes, matched)
