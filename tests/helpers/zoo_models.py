"""Detectors of Detectron2's zoo on the road of torchvision."""

from pathlib import Path

from torch import nn

from kd2.config import assemble, defaults_of
from kd2.engine.lightning.detection.conventions import in_model_names
from kd2.engine.lightning.detection.models import build_detector, dense_head
from kd2.engine.weights.checkpoint import read_weights
from kd2.engine.weights.matching import load_state
from kd2.zoo.torchvision_configs import torchvision_config


def torchvision_detector(name: str, file: Path, *options: str) -> tuple[nn.Module, float]:
    """The detector of a zoo name in eval mode with the weights in ``file``, and the matched part of its weights.

    Args:
        options: ``KEY VALUE`` pairs over the zoo's config.
    """
    loaded = torchvision_config(name, "the test")
    for key, value in zip(options[::2], options[1::2], strict=True):
        node, last = key.split(".")
        loaded.setdefault(node, {})[last] = value
    model = build_detector(assemble(defaults_of("torchvision"), loaded, "the test"))
    state, _ = in_model_names(read_weights(str(file), "the test"), dense_head(model).anchor_generator, "the test")
    return model.eval(), load_state(model, state, str(file), "the test", partial=False).matched
