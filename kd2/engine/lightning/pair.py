"""A torchvision student beside its teacher, whatever both are for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import nn

from kd2.engine.lightning.teacher import load_teacher, teacher_config
from kd2.config import torchvision_config
from kd2.distill import ConfigError, Distiller, Taps
from kd2.losses.registry import active_losses, build_losses


@dataclass(frozen=True)
class Guide:
    """The teacher's model, whether its color order is the student's reversed, and the matched share of its weights."""

    model: nn.Module
    flip: bool
    format: str
    matched: float


@dataclass(frozen=True)
class Kind:
    """What a pair is made of.

    Attributes:
        num_classes: of a config, the key of its class count and the count.
        teacher: the model of the teacher's config, which takes images in the size they have.
        probe: (model, taps, config key) to the probed taps.
        distiller: called like ``Distiller`` but with a ``Guide`` for the teacher.
    """

    num_classes: Callable[[CfgNode], tuple[str, int]]
    teacher: Callable[[CfgNode], nn.Module]
    probe: Callable[[nn.Module, list[str], str], Taps]
    distiller: Callable[..., Distiller]


def build_pair(cfg: CfgNode, student: nn.Module, kind: Kind) -> Distiller:
    """The student, and teacher and losses when some loss counts. Their making draws nothing from the student's random
    stream.

    Raises:
        ConfigError: see ``teacher_config``, ``load_teacher`` and ``Taps``; another number of classes.
    """
    blocks = active_losses(cfg.KD.LOSSES)
    if not blocks:
        return kind.distiller(student, seed=cfg.SEED)
    _, classes = kind.num_classes(cfg)
    with torch.random.fork_rng(devices=[]):
        guide = _guide(cfg, kind)
        student_taps = kind.probe(student, list(cfg.KD.STUDENT.TAPS), "KD.STUDENT.TAPS")
        teacher_taps = kind.probe(guide.model, list(cfg.KD.TEACHER.TAPS), "KD.TEACHER.TAPS")
        losses, uses = build_losses(blocks, student_taps.specs, teacher_taps.specs)
    distiller = kind.distiller(
        student, guide, student_taps=student_taps, teacher_taps=teacher_taps, losses=losses, uses=uses, seed=cfg.SEED,
        batch_statistics=cfg.KD.TEACHER.BATCH_STATISTICS,
    )
    distiller.facts = {
        "classes": (classes, classes),
        "color order": (cfg.INPUT.FORMAT, guide.format),
        "matched weights": ("from scratch", f"{100 * guide.matched:.1f} %"),
    }
    return distiller


def _guide(cfg: CfgNode, kind: Kind) -> Guide:
    """The model of ``KD.TEACHER.CONFIG_FILE`` with ``KD.TEACHER.WEIGHTS``."""
    own = teacher_config(cfg, torchvision_config())
    key, classes = kind.num_classes(own)
    student_key, student_classes = kind.num_classes(cfg)
    if classes != student_classes:
        raise ConfigError(f"{key} of the teacher is {classes}, {student_key} of the student is {student_classes}")
    model = kind.teacher(own)
    matched = load_teacher(model, cfg)
    return Guide(model, own.INPUT.FORMAT != cfg.INPUT.FORMAT, own.INPUT.FORMAT, matched)
