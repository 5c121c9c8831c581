"""The teacher of a classifier: one network, or several whose logits are averaged."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.engine.checkpoint import read_checkpoint
from kd2.engine.lightning.teacher import load_teacher, teacher_config
from kd2.engine.lightning.classification.models import Normalize, build_model
from kd2.engine.lightning.classification.sources import same_order
from kd2.config import timm_config
from kd2.distill import ConfigError, nearest
from kd2.losses.registry import active_losses


@dataclass(frozen=True)
class Guide:
    """The teacher's model, what turns pixels (N, 3, size, size) in [0, 1] into its input, and facts about it.

    ``about`` holds what changes its outputs beside the weights.
    """

    model: nn.Module
    normalize: Callable[[Tensor], Tensor]
    size: int
    classes: int
    matched: float
    names: str
    about: str


class TeacherEnsemble(nn.Module):
    """Several teachers as one: the mean of their logits (N, K), from pixels in [0, 1] of the largest one's size.

    A smaller teacher sees the same view reduced (bilinear, antialiased).
    """

    def __init__(self, guides: list[Guide]):
        super().__init__()
        self.models = nn.ModuleList(guide.model for guide in guides)
        self.inputs = [(guide.normalize, guide.size) for guide in guides]

    def forward(self, pixels: Tensor) -> Tensor:
        total = 0.0
        for model, (normalize, size) in zip(self.models, self.inputs):
            seen = pixels
            if size != pixels.shape[2]:
                seen = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
            total = total + model(normalize(seen)).float()
        return total / len(self.models)


def teacher_size(cfg: CfgNode) -> int | None:
    """``INPUT.SIZE`` of the teacher's own config, the largest of several; None when no loss counts."""
    if not active_losses(cfg.KD.LOSSES):
        return None
    return max(own.INPUT.SIZE for _, _, own in _configs(cfg))


def build_teacher(cfg: CfgNode) -> Guide:
    """The teacher of ``KD.TEACHER``, with its weights; averaged with those of ``KD.TEACHER.MORE``.

    Raises:
        ConfigError: see ``teacher_config`` and ``load_teacher``; class counts or class orders that differ.
    """
    guides = [_build(cfg, *one) for one in _configs(cfg)]
    if len(guides) == 1:
        return guides[0]
    return Guide(
        TeacherEnsemble(guides), lambda pixels: pixels, max(g.size for g in guides), guides[0].classes,
        min(g.matched for g in guides), " + ".join(g.names for g in guides), "; ".join(g.about for g in guides),
    )


def _configs(cfg: CfgNode) -> list[tuple[str, CfgNode, CfgNode]]:
    """For each teacher its node's name, the run's config as if it were the only one, and the teacher's own config."""
    asked = {"KD.TEACHER": cfg}
    for name, block in cfg.KD.TEACHER.MORE.items():
        unknown = set(block) - {"CONFIG_FILE", "WEIGHTS", "OPTS"}
        if unknown:
            key = f"KD.TEACHER.MORE.{name}.{sorted(unknown)[0]}"
            raise ConfigError(f"{key}: no such key; {nearest(sorted(unknown)[0], ('CONFIG_FILE', 'WEIGHTS', 'OPTS'))}")
        one = asked[f"KD.TEACHER.MORE.{name}"] = cfg.clone()
        one.KD.TEACHER.update({"CONFIG_FILE": "", "WEIGHTS": "", "OPTS": []} | dict(block))
    return [(node, one, teacher_config(one, timm_config(), node)) for node, one in asked.items()]


def _build(cfg: CfgNode, node: str, asked: CfgNode, own: CfgNode) -> Guide:
    if own.MODEL.NUM_CLASSES != cfg.MODEL.NUM_CLASSES:
        theirs, ours = own.MODEL.NUM_CLASSES, cfg.MODEL.NUM_CLASSES
        raise ConfigError(f"MODEL.NUM_CLASSES of the teacher ({node}) is {theirs}, of the student {ours}")
    model = build_model(own)
    matched = 1.0 if own.MODEL.PRETRAINED and not asked.KD.TEACHER.WEIGHTS else load_teacher(model, asked, node)
    same_order(tuple(cfg.MODEL.CLASSES), _classes(node, asked, own), "the student's data", f"the teacher ({node})")
    about = f"{own.MODEL.NAME} {dict(own.MODEL.ARGS)} {own.INPUT.SIZE} {own.MODEL.PIXEL_MEAN} {own.MODEL.PIXEL_STD}"
    return Guide(model, Normalize(own), own.INPUT.SIZE, own.MODEL.NUM_CLASSES, matched, own.MODEL.NAME, about)


def _classes(node: str, asked: CfgNode, own: CfgNode) -> tuple[str, ...]:
    """The teacher's class names: of its config, otherwise of a kd2 checkpoint; empty when nobody tells."""
    weights = asked.KD.TEACHER.WEIGHTS
    if own.MODEL.CLASSES or not weights or weights.startswith(("http://", "https://")):
        return tuple(own.MODEL.CLASSES)
    found = read_checkpoint(weights, f"{node}.WEIGHTS").get("classes", ())
    return () if isinstance(found, torch.Tensor) else tuple(found)
