"""The teachers' own config files and weights, for the roads that Lightning trains."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.config import defaults_of, load_teacher_config, teacher_blocks
from kd2.distill import ConfigError
from kd2.engine.timm_backbone import pretrained
from kd2.engine.weights.checkpoint import read_weights
from kd2.engine.weights.matching import load_state
from kd2.engine.weights.names import TIMM, TORCHVISION

logger = logging.getLogger(__name__)
Read = Callable[[str, str], dict[str, Tensor]]


@dataclass(frozen=True)
class TeacherSource:
    """One teacher as the run's config names it.

    Attributes:
        node: ``KD.TEACHER`` or ``KD.TEACHERS[i]``, for errors.
        weights: a file, a published name, or nothing.
        cfg: its own config; the defaults where ``builder`` says it all.
        builder: ``torchvision://NAME`` of one of torchvision's own networks, or empty.
    """

    node: str
    weights: str
    cfg: CfgNode
    builder: str = ""

    @property
    def weights_key(self) -> str:
        """The config key of the weights, for errors."""
        return f"{self.node}.WEIGHTS"


def teacher_sources(cfg: CfgNode) -> list[TeacherSource]:
    """The teacher of ``KD.TEACHER``, then those of ``KD.TEACHERS``; each own config is read here and only here.

    Raises:
        ConfigError: see ``kd2.config.load_teacher_config``.
    """
    return [_source(cfg, node, block) for node, block in teacher_blocks(cfg).items()]


def _source(cfg: CfgNode, node: str, block: Mapping[str, Any]) -> TeacherSource:
    """The source of one teacher. A file fills the whole network, so the library's own weights are not fetched."""
    name, weights, key = block["CONFIG_FILE"], block["WEIGHTS"], f"{node}.CONFIG_FILE"
    if name.startswith(TORCHVISION) and cfg.FRAMEWORK == "torchvision":
        if block["OPTS"]:
            raise ConfigError(f"{node}.OPTS is given, but {name} has no config; its classes are those of its weights")
        return TeacherSource(node, _given(weights, node), defaults_of(cfg.FRAMEWORK), name)
    timm = name.startswith(TIMM) and cfg.FRAMEWORK == "timm"
    own = load_teacher_config(cfg, node, published=timm_config(name, key) if timm else None)
    if weights and own.FRAMEWORK == "timm":
        own.MODEL.PRETRAINED = False
    elif weights:
        own.MODEL.BACKBONE.WEIGHTS = ""
    return TeacherSource(node, weights, own)


def timm_config(name: str, key: str) -> dict[str, Any]:
    """A network of timm as a config, with the classes and the input that its weights were trained for.

    Raises:
        ConfigError: timm has no such weights; names ``key``.
    """
    about = pretrained(name.removeprefix(TIMM), key)
    statistics = {f"PIXEL_{k.upper()}": [255 * x for x in about[k]] for k in ("mean", "std")}
    model = {"NAME": name.removeprefix(TIMM), "NUM_CLASSES": about["num_classes"], **statistics}
    return {"FRAMEWORK": "timm", "MODEL": model, "INPUT": {"SIZE": about["input_size"][-1]}}


def load_teacher(model: nn.Module, source: TeacherSource, partial: bool, read: Read = read_weights) -> float:
    """Fill a teacher from its file; returns the matched part of the model's weights, 0 to 1.

    Args:
        partial: ``KD.TEACHER.ALLOW_PARTIAL``.
        read: from file and config key to weights under the model's names.

    Raises:
        ConfigError: no file, or weights that match less than 100 % and ``partial`` is false.
    """
    weights, key = _given(source.weights, source.node), source.weights_key
    match = load_state(model, read(weights, key), weights, key, partial)
    logger.info("Teacher %s: %s", source.weights, match.text())
    return match.matched


def _given(weights: str, node: str) -> str:
    if not weights:
        raise ConfigError(f"{node}.WEIGHTS is empty, expected a checkpoint file, a run folder, or a published name")
    return weights
