"""Backbones for segmentation: the last stages of a classification network, dilated when its arguments say so."""

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from kd2.distill import ConfigError
from kd2.engine.lightning.backbones import (
    MOBILENETS,
    RESNETS,
    built_timm,
    mobilenet,
    resnet,
    strided,
    timm_network,
    unknown_backbone,
)
from kd2.engine.timm_backbone import channels, feature_maps


class TimmStages(nn.Module):
    """The maps of a ``features_only`` network of timm under names.

    Args:
        names: of the network's maps, in its order.
    """

    def __init__(self, network: nn.Module, names: list[str]):
        super().__init__()
        self.network = network
        self.channels = dict(zip(names, channels(network), strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to {name: (N, C, h, w), ...}."""
        return dict(zip(self.channels, feature_maps(self.network, x), strict=True))


def stages(cfg: CfgNode, low: str = "", out: str = "out") -> nn.Module:
    """The network of ``MODEL.BACKBONE`` as a module from (N, 3, H, W) to a dict of maps; ``channels`` has their widths.

    Args:
        low: name of a map of stride 8, or empty: the last but one stage is given as ``aux`` then.
        out: name of the last stage's map.

    Raises:
        ConfigError: an unknown name, arguments that the network does not take, no map of stride 8.
    """
    name = cfg.MODEL.BACKBONE.NAME
    early = low or "aux"
    if name.startswith("timm/"):
        strides = timm_network(cfg).strides()
        index = _stride8(strides, name) if low else len(strides) - 2
        return TimmStages(built_timm(cfg, out_indices=(index, len(strides) - 1)), [early, out])
    if name in RESNETS:
        body = resnet(cfg)
        layers = {"layer2" if low else "layer3": early, "layer4": out}
        widths = [_last_channels(getattr(body, layer)) for layer in layers]
    elif name in MOBILENETS:
        body = mobilenet(cfg)
        # As in torchvision's LR-ASPP and DeepLabV3: the first block of stride 8, and the last block.
        layers = {str(strided(body)[-3]): early, str(len(body) - 1): out}
        widths = [body[int(layer)].out_channels for layer in layers]
    else:
        raise unknown_backbone(name)
    maps = IntermediateLayerGetter(body, layers)
    maps.channels = dict(zip(layers.values(), widths))
    return maps


def _stride8(strides: list[int], name: str) -> int:
    if 8 not in strides[:-1]:
        raise ConfigError(f"MODEL.BACKBONE.NAME: {name!r} has maps of strides {strides}, LRASPP needs an early 8")
    return strides.index(8)


def _last_channels(layer: nn.Sequential) -> int:
    return [m for m in layer[-1].modules() if isinstance(m, nn.Conv2d)][-1].out_channels
