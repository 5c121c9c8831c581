"""Segmentation networks from a config, with torchvision's classes and key names where it has them."""

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models import segmentation
from torchvision.models.segmentation import LRASPP
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from kd2.distill import ConfigError, nearest
from kd2.engine.lightning.backbones import NORMS, fpn_backbone, norm_layer
from kd2.engine.lightning.published import build_published, builder_of, pixel_statistics
from kd2.engine.lightning.segmentation.stages import stages
from kd2.engine.lightning.teacher import TeacherSource
from kd2.engine.weights.checkpoint import read_weights
from kd2.networks.espnet import LEVEL3, ESPDecoder, ESPEncoder
from kd2.networks.pspnet import AuxiliaryHead, PSPHead
from kd2.networks.semantic_fpn import SemSegFPNHead

# Where the backbone without its feature pyramid lies in a network's key names.
BODY = "backbone.body."
_NORM = "MODEL.SEM_SEG_HEAD.NORM"
_WITH_AUX = ("PSPNet", "DeepLabV3", "FCN")
_WITH_NORM = ("PSPNet", "SemSegFPN")


class Segmenter(nn.Module):
    """A backbone and its classifier; with an auxiliary classifier on an earlier stage in training.

    Taps: ``classifier`` gives the scores before they are enlarged. What its last convolution takes lies at
    ``classifier.bottleneck`` in PSPNet, ``classifier.3`` in DeepLabV3 and FCN, ``classifier.cbr`` in LRASPP (the upper
    branch, not yet gated), ``classifier.sum`` in SemSegFPN, ``backbone:out`` in ESPNetC and ``classifier.fuse1`` in
    ESPNet. ``backbone:out`` is the last stage (``backbone:high`` in LRASPP), ``backbone:aux`` the one before it;
    SemSegFPN has ``backbone:0`` to ``backbone:3``, of stride 4 to 32.

    Args:
        backbone: (N, 3, H, W) to a dict of maps.
        classifier: takes the map ``source`` of that dict, or all of it when ``source`` is empty.
        aux_classifier: takes the map ``aux``.
        mean, std: of pixels 0..255, in the order of the images' channels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classifier: nn.Module,
        aux_classifier: nn.Module | None = None,
        source: str = "out",
        *,
        mean: list[float],
        std: list[float],
    ):
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier
        self.source = source
        self.register_buffer("mean", torch.tensor(mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalized images (N, 3, H, W) to scores (N, K, h, w) ``out`` and, in training, ``aux``, not enlarged."""
        maps = self.backbone(images)
        scores = {"out": self.classifier(maps[self.source] if self.source else maps)}
        if self.aux_classifier is not None and self.training:
            scores["aux"] = self.aux_classifier(maps["aux"])
        return scores

    def normalized(self, images: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Images uint8 (3, h, w) as float32 (N, 3, *size); padded with the mean on the right and at the bottom."""
        batch = self.mean.new_zeros(len(images), 3, *size)
        for place, image in zip(batch, images):
            place[:, : image.shape[1], : image.shape[2]] = (image - self.mean) / self.std
        return batch


def build_segmenter(cfg: CfgNode) -> Segmenter:
    """The network of ``MODEL``.

    Raises:
        ConfigError: an unknown architecture, backbone or norm; an auxiliary head where there is none.
    """
    name, head = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD
    if name not in ARCHITECTURES:
        raise ConfigError(f"MODEL.META_ARCHITECTURE is {name!r}; {nearest(name, ARCHITECTURES)}")
    if head.AUX_WEIGHT and name not in _WITH_AUX:
        raise ConfigError(f"MODEL.SEM_SEG_HEAD.AUX_WEIGHT is {head.AUX_WEIGHT}, expected 0: {name} has no such head")
    norm_layer(head.NORM, _NORM, ("BN", "GN") if name in _WITH_NORM else ("BN",))
    return Segmenter(**ARCHITECTURES[name](cfg), mean=list(cfg.MODEL.PIXEL_MEAN), std=list(cfg.MODEL.PIXEL_STD))


def published_segmenter(source: TeacherSource) -> tuple[Segmenter, int]:
    """The network of a builder of torchvision, still without its weights, and the number of its classes.

    Raises:
        ConfigError: no such network; weights that are not its own.
    """
    builder, key = builder_of(source.builder, segmentation, f"{source.node}.CONFIG_FILE"), source.weights_key
    model, count = build_published(builder, read_weights(source.weights, key), source.weights, key)
    mean, std = pixel_statistics(builder)
    parts = model.backbone, model.classifier, getattr(model, "aux_classifier", None)
    return Segmenter(*parts, "" if isinstance(model, LRASPP) else "out", mean=mean, std=std), count


def num_classes(cfg: CfgNode) -> tuple[str, int]:
    """The config key of the class count, and its value."""
    return "MODEL.SEM_SEG_HEAD.NUM_CLASSES", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


def _pspnet(cfg: CfgNode) -> dict:
    backbone, head = stages(cfg), cfg.MODEL.SEM_SEG_HEAD
    common = head.NUM_CLASSES, head.CONVS_DIM, NORMS[head.NORM], head.DROPOUT
    aux = AuxiliaryHead(backbone.channels["aux"], *common) if head.AUX_WEIGHT else None
    return {"backbone": backbone, "classifier": PSPHead(backbone.channels["out"], *common), "aux_classifier": aux}


def _deeplab(cfg: CfgNode) -> dict:
    backbone, head = stages(cfg), cfg.MODEL.SEM_SEG_HEAD
    classifier = DeepLabHead(backbone.channels["out"], head.NUM_CLASSES, tuple(head.ASPP_DILATIONS))
    return {"backbone": backbone, "classifier": classifier, "aux_classifier": _fcn_aux(backbone, head)}


def _fcn(cfg: CfgNode) -> dict:
    backbone, head = stages(cfg), cfg.MODEL.SEM_SEG_HEAD
    classifier = FCNHead(backbone.channels["out"], head.NUM_CLASSES)
    return {"backbone": backbone, "classifier": classifier, "aux_classifier": _fcn_aux(backbone, head)}


def _fcn_aux(backbone: nn.Module, head: CfgNode) -> nn.Module | None:
    return FCNHead(backbone.channels["aux"], head.NUM_CLASSES) if head.AUX_WEIGHT else None


def _lraspp(cfg: CfgNode) -> dict:
    backbone, head = stages(cfg, low="low", out="high"), cfg.MODEL.SEM_SEG_HEAD
    channels = backbone.channels
    classifier = LRASPPHead(channels["low"], channels["high"], head.NUM_CLASSES, head.CONVS_DIM)
    return {"backbone": backbone, "classifier": classifier, "source": ""}


def _semantic_fpn(cfg: CfgNode) -> dict:
    head = cfg.MODEL.SEM_SEG_HEAD
    classifier = SemSegFPNHead(cfg.MODEL.FPN.OUT_CHANNELS, head.NUM_CLASSES, head.CONVS_DIM, NORMS[head.NORM])
    return {"backbone": fpn_backbone(cfg, first_level=2), "classifier": classifier, "source": ""}


def _encoder(cfg: CfgNode) -> ESPEncoder:
    return ESPEncoder(cfg.MODEL.ESPNET.LEVEL2_BLOCKS, cfg.MODEL.ESPNET.LEVEL3_BLOCKS)


def _espnet_c(cfg: CfgNode) -> dict:
    return {"backbone": _encoder(cfg), "classifier": nn.Conv2d(LEVEL3, num_classes(cfg)[1], 1, bias=False)}


def _espnet(cfg: CfgNode) -> dict:
    return {"backbone": _encoder(cfg), "classifier": ESPDecoder(num_classes(cfg)[1]), "source": ""}


ARCHITECTURES = {
    "PSPNet": _pspnet,
    "DeepLabV3": _deeplab,
    "FCN": _fcn,
    "LRASPP": _lraspp,
    "SemSegFPN": _semantic_fpn,
    "ESPNetC": _espnet_c,
    "ESPNet": _espnet,
}
