"""The teacher's own config file and weights, for frameworks that Lightning trains."""

import logging

import torch
from fvcore.common.config import CfgNode
from torch import nn

from kd2.engine.checkpoint import check_file, load_state, read_checkpoint, weights_of
from kd2.config import framework_of, merge, read
from kd2.distill import ConfigError

logger = logging.getLogger(__name__)


def teacher_config(cfg: CfgNode, defaults: CfgNode, node: str = "KD.TEACHER") -> CfgNode:
    """``KD.TEACHER.CONFIG_FILE`` and ``KD.TEACHER.OPTS`` merged into ``defaults``; errors call the node ``node``.

    Raises:
        ConfigError: no file is named or it does not exist; its FRAMEWORK is not the student's.
    """
    path = cfg.KD.TEACHER.CONFIG_FILE
    if not path:
        raise ConfigError(f"{node}.CONFIG_FILE is empty, but KD.LOSSES has losses that need a teacher")
    check_file(path, f"{node}.CONFIG_FILE")
    loaded = read(path, list(cfg.KD.TEACHER.OPTS))
    if framework_of(loaded, path) != cfg.FRAMEWORK:
        raise ConfigError(f"{node}.CONFIG_FILE: FRAMEWORK in {path} is not {cfg.FRAMEWORK}, the student's")
    return merge(defaults, loaded)


def load_teacher(model: nn.Module, cfg: CfgNode, node: str = "KD.TEACHER") -> float:
    """Load ``KD.TEACHER.WEIGHTS``; returns the share of the model's weights that matched, 0 to 1.

    Raises:
        ConfigError: no file, or weights that match less than 100 % (unless ``KD.TEACHER.ALLOW_PARTIAL``).
    """
    source, key = cfg.KD.TEACHER.WEIGHTS, f"{node}.WEIGHTS"
    match = load_state(model, weights_of(read_weights(source, key)), source, key, partial=cfg.KD.TEACHER.ALLOW_PARTIAL)
    logger.info("Teacher %s: %s", source, match.text())
    return match.share


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
