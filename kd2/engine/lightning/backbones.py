"""Backbones with an FPN: torchvision ResNets and MobileNetV3, and every timm network with a feature pyramid."""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable

import timm
import torch
import torchvision
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from kd2.engine.checkpoint import load_state, read_checkpoint, weights_of
from kd2.distill import ConfigError, nearest


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or the most that divide ``channels`` into groups of at least two: a 1x1 map has no norm otherwise."""
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups // 2 if groups == channels else groups, channels)


RESNETS = tuple(n for n in torchvision.models.list_models(torchvision.models) if n.startswith("resnet"))
MOBILENETS = ("mobilenet_v3_large", "mobilenet_v3_small")
NORMS = {"": None, "BN": nn.BatchNorm2d, "GN": group_norm, "FrozenBN": FrozenBatchNorm2d}


def norm_layer(cfg_value: str, key: str, allowed: tuple[str, ...]):
    """The norm layer called ``cfg_value``; raises ConfigError naming ``key``."""
    if cfg_value not in allowed:
        raise ConfigError(f"{key} is {cfg_value!r}; {nearest(cfg_value, [repr(a) for a in allowed])}")
    return NORMS[cfg_value]


def fpn_backbone(cfg: CfgNode, first_level: int) -> nn.Module:
    """The backbone of ``MODEL.BACKBONE`` with an FPN of ``MODEL.FPN``, as torchvision's detectors expect it.

    Args:
        first_level: 2 gives P2..P5 and a pooled P6 (R-CNN), 3 gives P3..P7 (one-stage).

    Returns:
        A module from images (N, 3, H, W) to an ordered dict of (N, FPN.OUT_CHANNELS, h, w) with the keys of torchvision.
    """
    width = cfg.MODEL.FPN.OUT_CHANNELS
    norm = norm_layer(cfg.MODEL.FPN.NORM, "MODEL.FPN.NORM", ("", "BN", "GN"))
    extra = LastLevelMaxPool() if first_level == 2 else LastLevelP6P7(width, width)
    name = cfg.MODEL.BACKBONE.NAME
    if name.startswith("timm/"):
        backbone = TimmFPN(_timm_body(cfg, first_level), width, extra, norm)
    elif name in RESNETS:
        backbone = _resnet_fpn(cfg, first_level, width, extra, norm)
    elif name in MOBILENETS:
        backbone = _mobilenet_fpn(cfg, first_level, width, extra, norm)
    else:
        raise unknown_backbone(name)
    return backbone


def unknown_backbone(name: str) -> ConfigError:
    """The complaint about a ``MODEL.BACKBONE.NAME`` that no library has."""
    return ConfigError(f"MODEL.BACKBONE.NAME is {name!r}; {nearest(name, [*RESNETS, *MOBILENETS, 'timm/NAME'])}")


def _resnet_fpn(cfg: CfgNode, first_level: int, width: int, extra: ExtraFPNBlock, norm) -> nn.Module:
    body = resnet(cfg)
    layers = [f"layer{i}" for i in range(first_level - 1, 5)]
    channels = [body.inplanes // 8 * 2 ** (i - 1) for i in range(first_level - 1, 5)]
    names = {layer: str(i) for i, layer in enumerate(layers)}
    return BackboneWithFPN(body, names, channels, width, extra_blocks=extra, norm_layer=norm)


def resnet(cfg: CfgNode) -> nn.Module:
    """torchvision's ResNet of ``MODEL.BACKBONE`` with its frozen stages."""
    body = _torchvision_body(cfg)
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    frozen = stages[: cfg.MODEL.BACKBONE.FREEZE_AT]
    for name, parameter in body.named_parameters():
        if name.split(".")[0] in frozen or (frozen and name.startswith("bn1")):
            parameter.requires_grad_(False)
    return body


def _mobilenet_fpn(cfg: CfgNode, first_level: int, width: int, extra: ExtraFPNBlock, norm) -> nn.Module:
    blocks = mobilenet(cfg)
    # torchvision marks the blocks that halve the map; the block before the next mark is the last of its size.
    halving = strided(blocks)
    ends = [i - 1 for i in halving[1:]] + [len(blocks) - 1]
    wanted = ends[len(ends) - (6 - first_level) :]
    names = {str(i): str(level) for level, i in enumerate(wanted)}
    channels = [blocks[i].out_channels for i in wanted]
    return BackboneWithFPN(blocks, names, channels, width, extra_blocks=extra, norm_layer=norm)


def mobilenet(cfg: CfgNode) -> nn.Sequential:
    """The blocks of torchvision's MobileNetV3 of ``MODEL.BACKBONE``."""
    _refuse_freezing(cfg)
    return _torchvision_body(cfg).features


def strided(blocks: nn.Sequential) -> list[int]:
    """Indices of the blocks that halve the map, or would if they were not dilated."""
    return [i for i, block in enumerate(blocks) if getattr(block, "_is_cn", False)]


def _torchvision_body(cfg: CfgNode) -> nn.Module:
    name, weights = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.WEIGHTS
    norm = norm_layer(cfg.MODEL.BACKBONE.NORM, "MODEL.BACKBONE.NORM", ("BN", "FrozenBN", "GN"))
    pretrained = torchvision.models.get_model_weights(name).DEFAULT if weights == "IMAGENET" else None
    make = functools.partial(torchvision.models.get_model, name, weights=pretrained, norm_layer=norm)
    return _with_weights(_made(make, cfg), weights)


def _made(make: Callable[..., nn.Module], cfg: CfgNode) -> nn.Module:
    """``make`` with ``MODEL.BACKBONE.ARGS``; raises ConfigError when the library refuses them."""
    args = dict(cfg.MODEL.BACKBONE.ARGS)
    try:
        return make(**args)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if not args:
            raise
        reason = str(error) or "a value that it does not take"
        raise ConfigError(f"MODEL.BACKBONE.ARGS {args} does not suit {cfg.MODEL.BACKBONE.NAME!r}: {reason}") from None


def _with_weights(body: nn.Module, weights: str) -> nn.Module:
    if weights and weights != "IMAGENET":
        key = "MODEL.BACKBONE.WEIGHTS"
        state = weights_of(read_checkpoint(weights, key))
        load_state(body, state, weights, key, partial=True)
    return body


def _refuse_freezing(cfg: CfgNode) -> None:
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise ConfigError(f"MODEL.BACKBONE.FREEZE_AT is only known for ResNets, expected 0 for {cfg.MODEL.BACKBONE.NAME!r}")


def _timm_body(cfg: CfgNode, first_level: int) -> nn.Module:
    strides = timm_strides(cfg)
    wanted = [2**level for level in range(first_level, 6)]
    if not set(wanted) <= set(strides):
        name = cfg.MODEL.BACKBONE.NAME.removeprefix("timm/")
        raise ConfigError(f"MODEL.BACKBONE.NAME: timm's {name!r} has maps of strides {strides}, an FPN needs {wanted}")
    indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in wanted]
    return timm_network(cfg, out_indices=indices)


def timm_network(cfg: CfgNode, **options) -> nn.Module:
    """The ``features_only`` network of timm that ``MODEL.BACKBONE`` names, with ``options`` of ``timm.create_model``."""
    _refuse_freezing(cfg)
    norm_layer(cfg.MODEL.BACKBONE.NORM, "MODEL.BACKBONE.NORM", ("BN",))
    name = cfg.MODEL.BACKBONE.NAME.removeprefix("timm/")
    if not timm.is_model(name):
        raise ConfigError(f"MODEL.BACKBONE.NAME: timm has no {name!r}; {nearest(name, timm.list_models())}")
    weights = cfg.MODEL.BACKBONE.WEIGHTS
    pretrained = {"features_only": True, "pretrained": weights == "IMAGENET"}
    return _with_weights(_made(functools.partial(timm.create_model, name, **pretrained, **options), cfg), weights)


def timm_strides(cfg: CfgNode) -> list[int]:
    """Pixels a cell of that network's maps; draws nothing from the global generator."""
    with torch.random.fork_rng(devices=[]):
        return timm_network(cfg).feature_info.reduction()


def nchw(maps: list[Tensor], channels: list[int]) -> list[Tensor]:
    """Maps with the channels in front; some networks compute in NHWC."""
    return [m if m.shape[1] == c else m.permute(0, 3, 1, 2) for m, c in zip(maps, channels)]


class TimmFPN(nn.Module):
    """An FPN on a ``features_only`` network of timm, with the output keys of torchvision's ``BackboneWithFPN``."""

    def __init__(self, body: nn.Module, width: int, extra: ExtraFPNBlock, norm):
        super().__init__()
        self.body = body
        self.channels = body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(self.channels, width, extra_blocks=extra, norm_layer=norm)
        self.out_channels = width

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) to {"0": (N, C, h, w), ...}."""
        maps = nchw(self.body(x), self.channels)
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
