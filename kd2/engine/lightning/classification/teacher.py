"""The teacher of a classifier: one network, or several whose logits are averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kd2.data.classes import same_order
from kd2.engine.lightning.classification.models import Normalize, build_model
from kd2.engine.lightning.teacher import TeacherSource, load_teacher
from kd2.engine.weights.checkpoint import class_names, read_checkpoint


@dataclass(frozen=True)
class TeacherNetwork:
    """A classifier that teaches, what turns pixels (N, 3, size, size) in [0, 1] into its input, and facts about it.

    ``about`` holds what changes its outputs beside the weights.
    """

    module: nn.Module
    normalize: Callable[[Tensor], Tensor]
    size: int
    matched: float
    name: str
    about: str


class TeacherEnsemble(nn.Module):
    """Several teachers as one: the mean of their logits (N, K), from pixels in [0, 1] of the largest one's size.

    A smaller teacher sees the same view reduced (bilinear, antialiased).
    """

    def __init__(self, networks: Sequence[TeacherNetwork]):
        super().__init__()
        self.models = nn.ModuleList(network.module for network in networks)
        self.inputs = [(network.normalize, network.size) for network in networks]

    def forward(self, pixels: Tensor) -> Tensor:
        total = 0.0
        for model, (normalize, size) in zip(self.models, self.inputs, strict=True):
            seen = pixels
            if size != pixels.shape[2]:
                seen = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
            total = total + model(normalize(seen)).float()
        return total / len(self.models)


def build_teacher(sources: Sequence[TeacherSource], classes: Sequence[str], partial: bool) -> TeacherNetwork:
    """The teacher with its weights; several are averaged.

    Args:
        classes: the student's class names in order; empty where nobody knows them.
        partial: see ``load_teacher``.

    Raises:
        ConfigError: see ``load_teacher``; class orders that differ.
    """
    networks = [_build(source, classes, partial) for source in sources]
    if len(networks) == 1:
        return networks[0]
    return TeacherNetwork(
        TeacherEnsemble(networks),
        lambda pixels: pixels,
        max(network.size for network in networks),
        min(network.matched for network in networks),
        " + ".join(network.name for network in networks),
        "; ".join(network.about for network in networks),
    )


def _build(source: TeacherSource, classes: Sequence[str], partial: bool) -> TeacherNetwork:
    own = source.cfg
    model = build_model(own)
    matched = 1.0 if own.MODEL.PRETRAINED and not source.weights else load_teacher(model, source, partial)
    same_order(tuple(classes), _classes(source), "the student's data", f"the teacher ({source.node})")
    about = f"{own.MODEL.NAME} {dict(own.MODEL.ARGS)} {own.INPUT.SIZE} {own.MODEL.PIXEL_MEAN} {own.MODEL.PIXEL_STD}"
    return TeacherNetwork(model, Normalize(own), own.INPUT.SIZE, matched, own.MODEL.NAME, about)


def _classes(source: TeacherSource) -> tuple[str, ...]:
    """The teacher's class names: of its config, otherwise of a kd2 checkpoint; empty when nobody tells."""
    own, weights = source.cfg.MODEL.CLASSES, source.weights
    if own or not weights:
        return tuple(own)
    return tuple(class_names(read_checkpoint(weights, f"{source.node}.WEIGHTS"), "images"))
