"""Classifiers by timm's names, kd2's own among them."""

import timm
import torch
from fvcore.common.config import CfgNode
from timm.models import register_model
from torch import Tensor, nn

from kd2.data.classification.mixup import normalized
from kd2.distill import ConfigError, eval_mode, nearest
from kd2.engine.timm_backbone import is_model
from kd2.networks.cifar_resnet import CifarResNet


def _cifar(depth: int, pretrained: bool, num_classes: int = 10, **_) -> CifarResNet:
    if pretrained:
        raise ConfigError(f"MODEL.PRETRAINED: kd2_resnet{depth} has no weights to fetch; name a file in MODEL.WEIGHTS")
    return CifarResNet(depth, num_classes)


@register_model
def kd2_resnet20(pretrained: bool = False, **options) -> CifarResNet:
    """ResNet-20 of He et al. for CIFAR."""
    return _cifar(20, pretrained, **options)


@register_model
def kd2_resnet32(pretrained: bool = False, **options) -> CifarResNet:
    """ResNet-32 of He et al. for CIFAR."""
    return _cifar(32, pretrained, **options)


@register_model
def kd2_resnet44(pretrained: bool = False, **options) -> CifarResNet:
    """ResNet-44 of He et al. for CIFAR."""
    return _cifar(44, pretrained, **options)


@register_model
def kd2_resnet56(pretrained: bool = False, **options) -> CifarResNet:
    """ResNet-56 of He et al. for CIFAR."""
    return _cifar(56, pretrained, **options)


@register_model
def kd2_resnet110(pretrained: bool = False, **options) -> CifarResNet:
    """ResNet-110 of He et al. for CIFAR."""
    return _cifar(110, pretrained, **options)


def build_model(cfg: CfgNode) -> nn.Module:
    """The classifier of ``MODEL``: normalized images (N, 3, SIZE, SIZE) to logits (N, NUM_CLASSES).

    Raises:
        ConfigError: timm has no such model, or it does not take ``MODEL.ARGS``.
    """
    model = cfg.MODEL
    if not is_model(model.NAME):
        raise ConfigError(f"MODEL.NAME: timm has no {model.NAME!r}; {nearest(model.NAME, timm.list_models())}")
    try:
        built = timm.create_model(
            model.NAME, pretrained=model.PRETRAINED, num_classes=model.NUM_CLASSES, **dict(model.ARGS)
        )
    except TypeError as error:
        raise ConfigError(f"MODEL.ARGS: {model.NAME} cannot be built with {dict(model.ARGS)}: {error}") from None
    if model.ARGS:
        _check_args(built, cfg)
    return built


def _check_args(built: nn.Module, cfg: CfgNode) -> None:
    """Raises ConfigError when ``MODEL.ARGS`` made a network that is no classifier of images."""
    name, size, expected = cfg.MODEL.NAME, cfg.INPUT.SIZE, (1, cfg.MODEL.NUM_CLASSES)
    with eval_mode(built):
        try:
            found = tuple(built(torch.zeros(1, 3, size, size)).shape)
        except (RuntimeError, AttributeError, AssertionError) as error:
            text = str(error).splitlines()[0]
            raise ConfigError(f"MODEL.ARGS {dict(cfg.MODEL.ARGS)}: {name} does not run then: {text}") from None
    if found != expected:
        raise ConfigError(f"MODEL.ARGS {dict(cfg.MODEL.ARGS)}: {name} gives {found} then, expected logits {expected}")


class Normalize:
    """A model's own input of pixels (N, 3, H, W) in [0, 1], from its config."""

    def __init__(self, cfg: CfgNode):
        self.mean, self.std = ([x / 255 for x in v] for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.device not in self._on:  # copied to a device once
            self._on[pixels.device] = tuple(torch.tensor(v, device=pixels.device) for v in (self.mean, self.std))
        return normalized(pixels, *self._on[pixels.device])
