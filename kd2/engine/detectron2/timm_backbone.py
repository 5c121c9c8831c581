"""timm's convolutional networks as Detectron2 backbones, alone or below an FPN."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from kd2.distill import ConfigError, nearest
from kd2.engine.timm_backbone import TimmNetwork, channels, feature_maps, strides

_LEVELS = ("res2", "res3", "res4", "res5")
# Pixels a cell: the usual ones, and dilated at output stride 16 and 8.
_STRIDES = ([4, 8, 16, 32], [4, 8, 16, 16], [4, 8, 8, 8])


class TimmBackbone(Backbone):
    """The feature maps of a timm network under Detectron2's names res2 to res5.

    Args:
        net: made by ``TimmNetwork.build``.
        levels: name -> index of the map in the network's output.
        shapes: name -> channels and stride.
    """

    def __init__(self, net: nn.Module, levels: dict[str, int], shapes: dict[str, ShapeSpec]):
        super().__init__()
        self.net, self.levels, self.shapes = net, levels, shapes
        self._out_features = list(levels)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the largest stride: heads then enlarge their maps to exactly that size."""
        return max(shape.stride for shape in self.shapes.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W), normalized, to maps (N, C, H / stride, W / stride)."""
        maps = feature_maps(self.net, x)
        return {name: maps[index] for name, index in self.levels.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self.shapes


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The network of ``MODEL.TIMM``, made with ``MODEL.TIMM.ARGS``: dilated with ``{output_stride: 8}``, say.

    Raises:
        ConfigError: an unknown name, arguments that the network does not take, one without maps of the strides 4 to 32
            (4, 8, 16, 16 or 4, 8, 8, 8 when dilated), an unknown norm, frozen stages.
    """
    options = cfg.MODEL.TIMM
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, a timm backbone trains as a whole; set 0"
        )
    if options.NORM not in ("BN", "FrozenBN"):
        raise ConfigError(f"MODEL.TIMM.NORM is {options.NORM!r}; {nearest(options.NORM, ('BN', 'FrozenBN'))}")
    keys = {"name_key": "MODEL.TIMM.NAME", "args_key": "MODEL.TIMM.ARGS"}
    net = TimmNetwork(options.NAME, options.ARGS, options.PRETRAINED, input_shape.channels, **keys).build()
    steps, widths = strides(net), channels(net)
    first = len(steps) - len(_LEVELS)
    if steps[max(first, 0) :] not in _STRIDES:
        raise ConfigError(
            f"MODEL.TIMM.NAME {options.NAME!r} has maps of strides {steps}, expected 4, 8, 16 and 32, or with "
            "MODEL.TIMM.ARGS.output_stride 16 or 8 none above it"
        )
    levels = {name: first + i for i, name in enumerate(_LEVELS)}
    shapes = {name: ShapeSpec(channels=widths[i], stride=steps[i]) for name, i in levels.items()}
    return TimmBackbone(freeze_batch_norm_2d(net) if options.NORM == "FrozenBN" else net, levels, shapes)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.TIMM`` below an FPN with p2 to p6, for two-stage detectors."""
    return _pyramid(cfg, build_timm_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.TIMM`` below an FPN with p3 to p7, for RetinaNet; ``MODEL.FPN.IN_FEATURES`` is res3, res4, res5."""
    bottom_up = build_timm_backbone(cfg, input_shape)
    top = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _pyramid(cfg, bottom_up, top)


def _pyramid(cfg: CfgNode, bottom_up: TimmBackbone, top: nn.Module) -> FPN:
    fpn, shapes = cfg.MODEL.FPN, bottom_up.output_shape()
    steps = [shapes[name].stride for name in fpn.IN_FEATURES]
    if len(set(steps)) < len(steps):
        raise ConfigError(f"MODEL.TIMM.ARGS makes maps of strides {steps}, an FPN needs a different stride a level")
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, top, fpn.FUSE_TYPE)
