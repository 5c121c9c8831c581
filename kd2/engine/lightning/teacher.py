"""The teachers' own config files and weights, for the roads that Lightning trains."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.config import load_teacher_config, teacher_blocks
from kd2.distill import ConfigError
from kd2.engine.checkpoint import load_state, read_weights

logger = logging.getLogger(__name__)
Read = Callable[[str, str], dict[str, Tensor]]


@dataclass(frozen=True)
class TeacherSource:
    """One teacher as the run's config names it.

    Attributes:
        node: ``KD.TEACHER`` or ``KD.TEACHERS[i]``, for errors.
        weights: a file, a URL, or nothing.
        cfg: its own config.
    """

    node: str
    weights: str
    cfg: CfgNode


def teacher_sources(cfg: CfgNode) -> list[TeacherSource]:
    """The teacher of ``KD.TEACHER``, then those of ``KD.TEACHERS``; each own config is read here and only here.

    Raises:
        ConfigError: see ``kd2.config.load_teacher_config``.
    """
    blocks = teacher_blocks(cfg).items()
    return [_source(node, block["WEIGHTS"], load_teacher_config(cfg, node)) for node, block in blocks]


def _source(node: str, weights: str, cfg: CfgNode) -> TeacherSource:
    """The source of one teacher. A file fills the whole network, so the library's own weights are not fetched."""
    if weights and cfg.FRAMEWORK == "timm":
        cfg.MODEL.PRETRAINED = False
    elif weights:
        cfg.MODEL.BACKBONE.WEIGHTS = ""
    return TeacherSource(node, weights, cfg)


def load_teacher(model: nn.Module, source: TeacherSource, partial: bool, read: Read = read_weights) -> float:
    """Fill a teacher from its file; returns the matched part of the model's weights, 0 to 1.

    Args:
        partial: ``KD.TEACHER.ALLOW_PARTIAL``.
        read: from file and config key to weights under the model's names.

    Raises:
        ConfigError: no file, or weights that match less than 100 % and ``partial`` is false.
    """
    key = f"{source.node}.WEIGHTS"
    if not source.weights:
        raise ConfigError(f"{key} is empty, expected a checkpoint file, a run folder, or a published name")
    match = load_state(model, read(source.weights, key), source.weights, key, partial)
    logger.info("Teacher %s: %s", source.weights, match.text())
    return match.matched
