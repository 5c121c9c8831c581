"""Backbones with an FPN: torchvision ResNets and MobileNetV3, and every timm network with a feature pyramid."""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torchvision
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from kd2.distill import ConfigError, nearest
from kd2.engine.lightning.zoo_inputs import tell_other_inputs
from kd2.engine.timm_backbone import TimmNetwork, channels, feature_maps
from kd2.engine.weights.checkpoint import read_weights
from kd2.engine.weights.matching import load_state
from kd2.zoo.resnet_names import body_state


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or the most that divide ``channels`` into groups of at least two: a 1x1 map has no norm otherwise."""
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups // 2 if groups == channels else groups, channels)


RESNETS = tuple(n for n in torchvision.models.list_models(torchvision.models) if n.startswith("resnet"))
MOBILENETS = ("mobilenet_v3_large", "mobilenet_v3_small")
# From the channels of C5.
ExtraLevels = Callable[[int], ExtraFPNBlock]
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
        A module from images (N, 3, H, W) to an ordered dict of (N, FPN.OUT_CHANNELS, h, w) with the keys of
        torchvision.
    """
    width = cfg.MODEL.FPN.OUT_CHANNELS
    norm = norm_layer(cfg.MODEL.FPN.NORM, "MODEL.FPN.NORM", ("", "BN", "GN"))
    extra = functools.partial(_extra_levels, cfg, first_level)
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


def _extra_levels(cfg: CfgNode, first_level: int, last: int) -> ExtraFPNBlock:
    """What stands behind P5; ``last`` are the channels of C5."""
    if first_level == 2:
        return LastLevelMaxPool()
    from_c5, width = cfg.MODEL.FPN.P6_FROM == "C5", cfg.MODEL.FPN.OUT_CHANNELS
    extra = LastLevelP6P7(last if from_c5 else width, width)
    extra.use_P5 = not from_c5  # torchvision goes by the channels, which may agree
    return extra


def unknown_backbone(name: str) -> ConfigError:
    """The complaint about a ``MODEL.BACKBONE.NAME`` that no library has."""
    return ConfigError(f"MODEL.BACKBONE.NAME is {name!r}; {nearest(name, [*RESNETS, *MOBILENETS, 'timm/NAME'])}")


def _resnet_fpn(cfg: CfgNode, first_level: int, width: int, extra: ExtraLevels, norm) -> nn.Module:
    body = resnet(cfg)
    layers = [f"layer{i}" for i in range(first_level - 1, 5)]
    channels = [body.inplanes // 8 * 2 ** (i - 1) for i in range(first_level - 1, 5)]
    names = {layer: str(i) for i, layer in enumerate(layers)}
    return BackboneWithFPN(body, names, channels, width, extra_blocks=extra(channels[-1]), norm_layer=norm)


def resnet(cfg: CfgNode) -> nn.Module:
    """torchvision's ResNet of ``MODEL.BACKBONE`` with its frozen stages."""
    body = _torchvision_body(cfg)
    if cfg.MODEL.BACKBONE.STRIDE_IN_1X1:
        _stride_first(body, cfg.MODEL.BACKBONE.NAME)
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    frozen = stages[: cfg.MODEL.BACKBONE.FREEZE_AT]
    for name, parameter in body.named_parameters():
        if name.split(".")[0] in frozen or (frozen and name.startswith("bn1")):
            parameter.requires_grad_(False)
    return body


def _stride_first(body: nn.Module, name: str) -> None:
    """Let the first convolution of each stage halve the map, as in MSRA's and Detectron2's ResNets."""
    blocks = [block for block in body.modules() if isinstance(block, Bottleneck)]
    if not blocks:
        raise ConfigError(f"MODEL.BACKBONE.STRIDE_IN_1X1 is True, but {name!r} has no 1x1 before its strides")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def _mobilenet_fpn(cfg: CfgNode, first_level: int, width: int, extra: ExtraLevels, norm) -> nn.Module:
    blocks = mobilenet(cfg)
    # torchvision marks the blocks that halve the map; the block before the next mark is the last of its size.
    halving = strided(blocks)
    ends = [i - 1 for i in halving[1:]] + [len(blocks) - 1]
    wanted = ends[len(ends) - (6 - first_level) :]
    names = {str(i): str(level) for level, i in enumerate(wanted)}
    channels = [blocks[i].out_channels for i in wanted]
    return BackboneWithFPN(blocks, names, channels, width, extra_blocks=extra(channels[-1]), norm_layer=norm)


def mobilenet(cfg: CfgNode) -> nn.Sequential:
    """The blocks of torchvision's MobileNetV3 of ``MODEL.BACKBONE``."""
    _refuse_for_resnets(cfg)
    return _torchvision_body(cfg).features


def strided(blocks: nn.Sequential) -> list[int]:
    """Indices of the blocks that halve the map, or would if they were not dilated."""
    return [i for i, block in enumerate(blocks) if getattr(block, "_is_cn", False)]


def _torchvision_body(cfg: CfgNode) -> nn.Module:
    name, weights = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.WEIGHTS
    norm = norm_layer(cfg.MODEL.BACKBONE.NORM, "MODEL.BACKBONE.NORM", ("BN", "FrozenBN", "GN"))
    make = functools.partial(torchvision.models.get_model, name, weights=None, norm_layer=norm)
    body = _made(make, cfg)
    if weights != "IMAGENET":
        tell_other_inputs(cfg, weights, "MODEL.BACKBONE.WEIGHTS")
        return _with_weights(body, weights)
    # Read by us: torchvision itself would unpickle the file.
    return _with_weights(body, torchvision.models.get_model_weights(name).DEFAULT.url, partial=False)


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


def _with_weights(body: nn.Module, weights: str, partial: bool = True) -> nn.Module:
    if weights:
        key = "MODEL.BACKBONE.WEIGHTS"
        load_state(body, body_state(read_weights(weights, key)), weights, key, partial)
    return body


def _refuse_for_resnets(cfg: CfgNode) -> None:
    for key, off in (("FREEZE_AT", 0), ("STRIDE_IN_1X1", False)):
        if cfg.MODEL.BACKBONE[key]:
            name = cfg.MODEL.BACKBONE.NAME
            raise ConfigError(f"MODEL.BACKBONE.{key} is only known for ResNets, expected {off} for {name!r}")


def _timm_body(cfg: CfgNode, first_level: int) -> nn.Module:
    strides = timm_network(cfg).strides()
    wanted = [2**level for level in range(first_level, 6)]
    if not set(wanted) <= set(strides):
        name = cfg.MODEL.BACKBONE.NAME.removeprefix("timm/")
        raise ConfigError(f"MODEL.BACKBONE.NAME: timm's {name!r} has maps of strides {strides}, an FPN needs {wanted}")
    return built_timm(cfg, out_indices=[len(strides) - 1 - strides[::-1].index(stride) for stride in wanted])


def timm_network(cfg: CfgNode) -> TimmNetwork:
    """The network of timm that ``MODEL.BACKBONE`` names."""
    _refuse_for_resnets(cfg)
    norm_layer(cfg.MODEL.BACKBONE.NORM, "MODEL.BACKBONE.NORM", ("BN",))
    backbone = cfg.MODEL.BACKBONE
    return TimmNetwork(backbone.NAME.removeprefix("timm/"), backbone.ARGS, backbone.WEIGHTS == "IMAGENET")


def built_timm(cfg: CfgNode, **options: Any) -> nn.Module:
    """That network with its weights; ``options`` are those of ``TimmNetwork.build``."""
    weights = cfg.MODEL.BACKBONE.WEIGHTS
    return _with_weights(timm_network(cfg).build(**options), "" if weights == "IMAGENET" else weights)


class TimmFPN(nn.Module):
    """An FPN on a ``features_only`` network of timm, with the output keys of torchvision's ``BackboneWithFPN``."""

    def __init__(self, body: nn.Module, width: int, extra: ExtraLevels, norm):
        super().__init__()
        self.body = body
        widths = channels(body)
        self.fpn = FeaturePyramidNetwork(widths, width, extra_blocks=extra(widths[-1]), norm_layer=norm)
        self.out_channels = width

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) to {"0": (N, C, h, w), ...}."""
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(feature_maps(self.body, x))))
