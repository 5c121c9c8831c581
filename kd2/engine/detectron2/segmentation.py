"""PSPNet and ESPNet as backbones and heads of Detectron2's ``SemanticSegmentor``.

Letters: N images, C channels, H x W pixels of the padded batch, K classes.
"""

import functools
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY, Backbone
from torch import Tensor, nn

from kd2.distill import ConfigError
from kd2.networks.espnet import DILATIONS, LEVEL1, LEVEL2, LEVEL3, ESPDecoder, ESPEncoder
from kd2.networks.losses import task_loss
from kd2.networks.pspnet import AuxiliaryHead, PSPHead
from kd2.networks.window import enlarged

Losses = dict[str, Tensor]


def head_output(
    head: nn.Module,
    scores: Tensor,
    stride: int,
    targets: Tensor | None,
    aux: Tensor | None = None,
    aux_weight: float = 0.0,
) -> tuple[Tensor | None, Losses]:
    """What Detectron2 expects of a head: no scores and the losses in training, else scores (N, K, H, W) and no losses.

    Args:
        head: has ``loss_weight``.
        scores, aux: (N, K, H / stride, W / stride), and of any size.
        targets: (N, H, W) classes, 255 for pixels that do not count.
    """
    if head.training:
        losses = task_loss(scores, aux, targets, aux_weight)
        return None, {name: loss * head.loss_weight for name, loss in losses.items()}
    return enlarged(scores, [stride * side for side in scores.shape[2:]]), {}


@SEM_SEG_HEADS_REGISTRY.register()
class PSPNetHead(PSPHead):
    """Pyramid pooling on the last of ``IN_FEATURES``, in training an auxiliary head on the first.

    Taps: ``sem_seg_head.predictor`` gives the scores, ``sem_seg_head.bottleneck`` the features before them.

    Args:
        input_shape: the backbone's maps by name.
        in_features: two of these names, or one without an auxiliary head.
        norm: a norm of Detectron2: BN, SyncBN, GN, ...
        width, dropout: see ``kd2.networks.pspnet.PSPHead``; of the auxiliary head too.
        aux_weight: of the auxiliary loss; 0 builds no such head.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        in_features: list[str],
        num_classes: int,
        width: int,
        norm: str,
        dropout: float,
        ignore_value: int,
        loss_weight: float,
        aux_weight: float,
    ):
        own, layer = input_shape[in_features[-1]], functools.partial(get_norm, norm)
        super().__init__(own.channels, num_classes, width, layer, dropout)
        self.names, self.stride = (in_features[0], in_features[-1]), own.stride
        self.ignore_value, self.loss_weight, self.aux_weight = ignore_value, loss_weight, aux_weight
        stage3 = input_shape[in_features[0]].channels
        self.auxiliary = AuxiliaryHead(stage3, num_classes, width, layer, dropout) if aux_weight else None

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        wanted = 2 if head.AUX_WEIGHT else 1
        if len(head.IN_FEATURES) < wanted or not set(head.IN_FEATURES) <= set(input_shape):
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}, PSPNetHead with AUX_WEIGHT "
                f"{head.AUX_WEIGHT} needs {wanted} of {', '.join(input_shape)}: the auxiliary head's map first"
            )
        if not head.NORM:
            raise ConfigError("MODEL.SEM_SEG_HEAD.NORM is empty, PSPNetHead needs a norm layer such as BN or SyncBN")
        return {
            "input_shape": input_shape,
            "in_features": head.IN_FEATURES,
            "width": head.CONVS_DIM,
            "norm": head.NORM,
            "dropout": head.DROPOUT,
            "aux_weight": head.AUX_WEIGHT,
            **common(cfg),
        }

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> tuple[Tensor | None, Losses]:
        """See ``head_output``."""
        scores = super().forward(features[self.names[1]])
        aux = self.auxiliary(features[self.names[0]]) if self.training and self.auxiliary else None
        return head_output(self, scores, self.stride, targets, aux, self.aux_weight)


class EspBackbone(Backbone):
    """ESPNet's encoder: maps level1, level2 and out of the strides 2, 4 and 8. See ``ESPEncoder`` for the blocks."""

    def __init__(self, level2_blocks: int, level3_blocks: int):
        super().__init__()
        self.net = ESPEncoder(level2_blocks, level3_blocks)
        self._out_features = ["level1", "level2", "out"]
        self._out_feature_channels = dict(zip(self._out_features, (LEVEL1, LEVEL2, LEVEL3)))
        self._out_feature_strides = dict(zip(self._out_features, (2, 4, 8)))

    @property
    def size_divisibility(self) -> int:
        return 8

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W), normalized, to the maps by name."""
        return self.net(images)


@BACKBONE_REGISTRY.register()
def build_espnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> EspBackbone:
    """The encoder of ESPNet and ESPNet-C, with the blocks of ``MODEL.ESPNET``."""
    return EspBackbone(cfg.MODEL.ESPNET.LEVEL2_BLOCKS, cfg.MODEL.ESPNET.LEVEL3_BLOCKS)


@SEM_SEG_HEADS_REGISTRY.register()
class ESPNetHead(ESPDecoder):
    """ESPNet's decoder behind ``build_espnet_backbone``; ``sem_seg_head.predictor`` gives scores of stride 1."""

    @configurable
    def __init__(self, *, num_classes: int, ignore_value: int, loss_weight: float):
        super().__init__(num_classes)
        self.ignore_value, self.loss_weight = ignore_value, loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        if len(DILATIONS) > cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}, ESPNetHead needs at least "
                f"{len(DILATIONS)}: its last module splits them over as many branches; ESPNetCHead takes any number"
            )
        return encoded(cfg, input_shape, "ESPNetHead")

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> tuple[Tensor | None, Losses]:
        """See ``head_output``."""
        return head_output(self, super().forward(features), 1, targets)


@SEM_SEG_HEADS_REGISTRY.register()
class ESPNetCHead(nn.Module):
    """ESPNet-C's classifier behind ``build_espnet_backbone``; ``sem_seg_head.predictor`` gives scores of stride 8."""

    @configurable
    def __init__(self, *, num_classes: int, ignore_value: int, loss_weight: float):
        super().__init__()
        self.predictor = nn.Conv2d(LEVEL3, num_classes, 1, bias=False)
        self.ignore_value, self.loss_weight = ignore_value, loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        return encoded(cfg, input_shape, "ESPNetCHead")

    def forward(self, features: Mapping[str, Tensor], targets: Tensor | None = None) -> tuple[Tensor | None, Losses]:
        """See ``head_output``."""
        return head_output(self, self.predictor(features["out"]), 8, targets)


def common(cfg: CfgNode) -> dict[str, Any]:
    """The arguments that all heads take; raises ConfigError for an ignored value that is not 255."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.IGNORE_VALUE != 255:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, {head.NAME} ignores 255")
    return {"num_classes": head.NUM_CLASSES, "ignore_value": head.IGNORE_VALUE, "loss_weight": head.LOSS_WEIGHT}


def encoded(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec], name: str) -> dict[str, Any]:
    """``common``; raises ConfigError when the backbone is not ESPNet's encoder."""
    if "level1" not in input_shape:
        raise ConfigError(f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}, {name} needs build_espnet_backbone")
    return common(cfg)
