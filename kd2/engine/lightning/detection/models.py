"""torchvision's detectors from a config."""

import functools
from collections.abc import Callable

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kd2.distill import ConfigError, nearest
from kd2.engine.lightning.backbones import fpn_backbone, norm_layer
from kd2.engine.lightning.detection.anchors import Detectron2Anchors
from kd2.engine.lightning.detection.conventions import AlignedRoIAlign, SamplingTransform, UnclippedRetinaNet
from kd2.engine.lightning.detection.exact_boxes import boxes_in_float32
from kd2.networks.level_norm import LevelBatchNorm

# P3 to P7.
_LEVELS = 5
# Where the backbone without its feature pyramid lies in a detector's key names.
BODY = "backbone.body."


def build_detector(cfg: CfgNode) -> nn.Module:
    """The detector of ``MODEL``, with torchvision's own classes and key names.

    In training it takes images as they come (the loader resizes); in evaluation it resizes itself to
    ``INPUT.MIN_SIZE_TEST``. One-stage labels start at 0, those of the R-CNNs at 1 (0 is background). Its boxes are in
    float32 in mixed precision too.

    Raises:
        ConfigError: an unknown architecture, backbone or norm; anchors that do not fit the levels.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in ARCHITECTURES:
        raise ConfigError(f"MODEL.META_ARCHITECTURE is {name!r}; {nearest(name, ARCHITECTURES)}")
    return boxes_in_float32(ARCHITECTURES[name](cfg))


def num_classes(cfg: CfgNode) -> tuple[str, int]:
    """The config key of the class count (without background), and its value."""
    one_stage = cfg.MODEL.META_ARCHITECTURE in ("RetinaNet", "FCOS")
    key = "MODEL.RETINANET.NUM_CLASSES" if one_stage else "MODEL.ROI_HEADS.NUM_CLASSES"
    return key, (cfg.MODEL.RETINANET if one_stage else cfg.MODEL.ROI_HEADS).NUM_CLASSES


def first_label(model: nn.Module) -> int:
    """The label of class 0: the R-CNNs keep 0 for background."""
    return 1 if isinstance(model, FasterRCNN) else 0


def dense_head(model: nn.Module) -> nn.Module:
    """What has the anchors and the box coder of the head that predicts at every cell."""
    return model.rpn if isinstance(model, FasterRCNN) else model


class _LevelHead(RetinaNetHead):
    """A head with ``LevelBatchNorm``; a pass that ended behind a tap does not count."""

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        for module in self.modules():
            if isinstance(module, LevelBatchNorm):
                module.begin()
        return super().forward(x)


class NoResize(GeneralizedRCNNTransform):
    """Normalizes and pads, but takes images in the size they have: for the teacher and for probes."""

    def __init__(self, other: GeneralizedRCNNTransform):
        super().__init__(other.min_size, other.max_size, other.image_mean, other.image_std, other.size_divisible)

    def resize(self, image, target=None):
        """Nothing to do."""
        return image, target


def _input(cfg: CfgNode) -> dict:
    return {
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "image_mean": [x / 255 for x in cfg.MODEL.PIXEL_MEAN],
        "image_std": [x / 255 for x in cfg.MODEL.PIXEL_STD],
        "_skip_resize": True,
    }


def _as_detectron2(cfg: CfgNode) -> bool:
    return cfg.MODEL.CONVENTIONS == "detectron2"


def _anchors(cfg: CfgNode, levels: int, first_stride: int) -> AnchorGenerator:
    sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    if len(sizes) != levels or len(ratios) not in (1, levels):
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR has {len(sizes)} lists of SIZES and {len(ratios)} of ASPECT_RATIOS, expected "
            f"{levels} (one a level) and 1 or {levels}"
        )
    ratios = list(ratios) * levels if len(ratios) == 1 else ratios
    sizes, ratios = tuple(map(tuple, sizes)), tuple(map(tuple, ratios))
    return Detectron2Anchors(sizes, ratios, first_stride) if _as_detectron2(cfg) else AnchorGenerator(sizes, ratios)


def _truncated(towers: list[nn.Sequential], layers: int, per_conv: int) -> None:
    """Keep the first ``layers`` convolutions of heads that torchvision builds with four."""
    if not 1 <= layers <= 4:
        raise ConfigError(f"MODEL.RETINANET.NUM_CONVS is {layers}, expected 1 to 4")
    for tower in towers:
        del tower[layers * per_conv :]


def _head_norm(name: str, levels: int) -> Callable[[int], nn.Module] | None:
    norm = norm_layer(name, "MODEL.RETINANET.NORM", ("", "BN", "GN"))
    return functools.partial(LevelBatchNorm, levels=levels) if name == "BN" else norm


def _retinanet(cfg: CfgNode) -> RetinaNet:
    backbone, head_cfg = fpn_backbone(cfg, first_level=3), cfg.MODEL.RETINANET
    anchors = _anchors(cfg, _LEVELS, first_stride=8)
    norm, per_cell = _head_norm(head_cfg.NORM, _LEVELS), anchors.num_anchors_per_location()[0]
    head = _LevelHead(backbone.out_channels, per_cell, head_cfg.NUM_CLASSES, norm_layer=norm)
    _truncated([head.classification_head.conv, head.regression_head.conv], head_cfg.NUM_CONVS, per_conv=1)
    make = UnclippedRetinaNet if _as_detectron2(cfg) else RetinaNet
    return make(
        backbone, head_cfg.NUM_CLASSES, anchor_generator=anchors, head=head, **_input(cfg), **_one_stage_test(cfg)
    )


def _fcos(cfg: CfgNode) -> FCOS:
    width, head_cfg = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.RETINANET
    if width % 32:
        raise ConfigError(f"MODEL.FPN.OUT_CHANNELS is {width}; FCOS needs a multiple of 32, its heads have 32 groups")
    backbone = fpn_backbone(cfg, first_level=3)
    head = FCOSHead(backbone.out_channels, 1, head_cfg.NUM_CLASSES)
    _truncated([head.classification_head.conv, head.regression_head.conv], head_cfg.NUM_CONVS, per_conv=3)
    points = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)  # as in torchvision's FCOS
    return FCOS(
        backbone, head_cfg.NUM_CLASSES, anchor_generator=points, head=head, **_input(cfg), **_one_stage_test(cfg)
    )


def _one_stage_test(cfg: CfgNode) -> dict:
    return {
        "score_thresh": cfg.MODEL.RETINANET.SCORE_THRESH_TEST,
        "nms_thresh": cfg.MODEL.RETINANET.NMS_THRESH_TEST,
        "topk_candidates": cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST,
        "detections_per_img": cfg.TEST.DETECTIONS_PER_IMAGE,
    }


def _rcnn(cfg: CfgNode, architecture: Callable[..., nn.Module]) -> nn.Module:
    pools = {"box_roi_pool": AlignedRoIAlign(7)} if _as_detectron2(cfg) else {}
    if pools and architecture is MaskRCNN:
        pools["mask_roi_pool"] = AlignedRoIAlign(14)
    model = architecture(
        fpn_backbone(cfg, first_level=2),
        cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1,
        rpn_anchor_generator=_anchors(cfg, levels=5, first_stride=4),
        box_batch_size_per_image=cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        box_score_thresh=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        box_nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        box_detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        **pools,
        **_input(cfg),
    )
    if pools:
        model.transform = SamplingTransform(model.transform)
    _resize_heads(cfg, model)
    return model


def _resize_heads(cfg: CfgNode, model: FasterRCNN) -> None:
    """Put heads of other widths than torchvision's own in their place."""
    heads, channels, classes = model.roi_heads, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1
    width = cfg.MODEL.ROI_BOX_HEAD.FC_DIM
    if width != heads.box_head.fc7.out_features:
        heads.box_head = TwoMLPHead(heads.box_head.fc6.in_features, width)
        heads.box_predictor = FastRCNNPredictor(width, classes)
    if isinstance(model, MaskRCNN) and heads.mask_predictor.conv5_mask.in_channels != cfg.MODEL.ROI_MASK_HEAD.CONV_DIM:
        width = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
        heads.mask_head = MaskRCNNHeads(channels, (width,) * 4, dilation=1)
        heads.mask_predictor = MaskRCNNPredictor(width, width, classes)


ARCHITECTURES = {
    "RetinaNet": _retinanet,
    "FCOS": _fcos,
    "FasterRCNN": functools.partial(_rcnn, architecture=FasterRCNN),
    "MaskRCNN": functools.partial(_rcnn, architecture=MaskRCNN),
}
