"""The teacher of the torchvision path: its own config file and weights."""

import logging
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import nn

from kd2.bridges.files import check_file, load_state, read_checkpoint, weights_of
from kd2.bridges.tv.models import NoResize, build_detector, num_classes
from kd2.config import framework_of, merge, read, torchvision_config
from kd2.core import ConfigError

logger = logging.getLogger(__name__)


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
        ConfigError: missing file or weights, weights that match less than 100 % (unless ``KD.TEACHER.ALLOW_PARTIAL``),
            another framework, another number of classes.
    """
    own = teacher_config(cfg)
    key, classes = num_classes(own)
    if classes != student_classes:
        raise ConfigError(f"{key} of the teacher is {classes}, {student_key} of the student is {student_classes}")
    model = build_detector(own)
    model.transform = NoResize(model.transform)
    source = cfg.KD.TEACHER.WEIGHTS
    state = weights_of(read_weights(source, "KD.TEACHER.WEIGHTS"))
    match = load_state(model, state, source, "KD.TEACHER.WEIGHTS", partial=cfg.KD.TEACHER.ALLOW_PARTIAL)
    logger.info("Teacher %s: %s", source, match.text())
    return Guide(model, own.INPUT.FORMAT != cfg.INPUT.FORMAT, own.INPUT.FORMAT, classes, match.share)


def teacher_config(cfg: CfgNode) -> CfgNode:
    """The merged config of the teacher."""
    path = cfg.KD.TEACHER.CONFIG_FILE
    if not path:
        raise ConfigError("KD.TEACHER.CONFIG_FILE is empty, but KD.TERMS has terms that need a teacher")
    check_file(path, "KD.TEACHER.CONFIG_FILE")
    loaded = read(path, list(cfg.KD.TEACHER.OPTS))
    if framework_of(loaded, path) != "torchvision":
        raise ConfigError(f"KD.TEACHER.CONFIG_FILE: FRAMEWORK in {path} is not torchvision, the student's")
    return merge(torchvision_config(), loaded)


def read_weights(source: str, key: str) -> dict:
    """A checkpoint from a path or a URL; raises ConfigError naming ``key``."""
    if not source:
        raise ConfigError(f"{key} is empty, expected a checkpoint file or URL")
    if not source.startswith(("http://", "https://")):
        return read_checkpoint(source, key)
    try:
        return torch.hub.load_state_dict_from_url(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{key}: {source} could not be fetched: {error}") from None
