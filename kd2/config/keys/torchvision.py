"""The keys of FRAMEWORK torchvision alone: detection and segmentation."""

from collections.abc import Sequence
from typing import Annotated

from kd2.config.keys.key import Key
from kd2.config.keys.shared import DENSE, DETECTORS, EVERY, LIGHTNING, SEGMENTERS
from kd2.distill import values as v

_ESPNETS = ("ESPNet", "ESPNetC")
_WITH_BACKBONE = tuple(name for name in (*DETECTORS, *SEGMENTERS) if name not in _ESPNETS)
_WITH_FPN = (*DETECTORS, "SemSegFPN")
_WITH_ANCHORS = ("RetinaNet", "FasterRCNN", "MaskRCNN")
_ANCHORS = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]

KEYS = (
    *EVERY,
    *DENSE,
    *LIGHTNING,
    #: Detection: RetinaNet, FCOS, FasterRCNN or MaskRCNN; segmentation: the others.
    Key("MODEL.META_ARCHITECTURE", "RetinaNet", v.one_of(*DETECTORS, *SEGMENTERS)),
    #: A torchvision ResNet or MobileNetV3 (resnet18, ..., mobilenet_v3_large), or timm/NAME. ESPNet has its own.
    Key("MODEL.BACKBONE.NAME", "resnet50", str, _WITH_BACKBONE),
    #: A state dict file for the backbone alone, or IMAGENET for the library's own: torchvision's from the folder
    #: $KD2_WEIGHTS or the network, timm's from the network.
    Key("MODEL.BACKBONE.WEIGHTS", "", str, _WITH_BACKBONE, path=True),
    #: Norm layer. FrozenBN needs pretrained weights.
    Key("MODEL.BACKBONE.NORM", "BN", v.one_of("BN", "FrozenBN", "GN"), _WITH_BACKBONE),
    #: Stages frozen from the stem on, as in Detectron2 (0: none, 2: stem and the first stage). Only the parameters: use
    #: FrozenBN to keep batch statistics as well.
    Key("MODEL.BACKBONE.FREEZE_AT", 0, Annotated[int, v.Range(low=0, high=5)], _WITH_BACKBONE),
    #: The strides of a ResNet from 50 on stand in the first 1x1 of a block instead of its 3x3, as in MSRA's ResNets and
    #: those of Detectron2's zoo but X101.
    Key("MODEL.BACKBONE.STRIDE_IN_1X1", False, bool, _WITH_BACKBONE),
    #: Keyword arguments of the library's constructor: {output_stride: 8} dilates a timm network and {stem_type: deep,
    #: stem_width: 64} gives its ResNet three convolutions as a stem, for example; {replace_stride_with_dilation:
    #: [False, True, True]} dilates torchvision's ResNets from 50 on, {dilated: True} its MobileNetV3.
    Key("MODEL.BACKBONE.ARGS", {}, dict, _WITH_BACKBONE),
    #: Channels of every level.
    Key("MODEL.FPN.OUT_CHANNELS", 256, v.Count, _WITH_FPN),
    #: Norm layer.
    Key("MODEL.FPN.NORM", "", v.one_of("", "BN", "GN"), _WITH_FPN),
    #: The map under P6 and P7 of RetinaNet and FCOS: the pyramid's P5 or the backbone's C5.
    Key("MODEL.FPN.P6_FROM", "P5", v.one_of("P5", "C5"), ("RetinaNet", "FCOS")),
    #: detectron2: anchors that are not rounded and stand on exact strides, RoIAlign aligned and sampled by the size of
    #: a cell, RetinaNet's boxes clipped behind their suppression, masks sampled at the centers of pixels. Its files
    #: need it; those of torchvision were trained without.
    Key("MODEL.CONVENTIONS", "torchvision", v.one_of("torchvision", "detectron2"), _WITH_ANCHORS),
    #: Sides in pixels: one list for all levels times 2^level is not implied; give a list per level.
    Key("MODEL.ANCHOR_GENERATOR.SIZES", _ANCHORS, Sequence[Sequence[v.Positive]], _WITH_ANCHORS),
    #: Height / width; one list for all levels or one a level.
    Key("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]], Sequence[Sequence[v.Positive]], _WITH_ANCHORS),
    #: Convolutions of the heads of RetinaNet and FCOS.
    Key("MODEL.RETINANET.NUM_CONVS", 4, Annotated[int, v.Range(low=1, high=4)], DETECTORS),
    #: Norm layer of RetinaNet's heads; BN keeps the statistics of every level by itself, as Detectron2 does. Plain
    #: torchvision has no such norm: its RetinaNetHead takes kd2.networks.level_norm.LevelBatchNorm of 5 levels.
    Key("MODEL.RETINANET.NORM", "", v.one_of("", "BN", "GN"), DETECTORS),
    #: Width of the two layers of the box head.
    Key("MODEL.ROI_BOX_HEAD.FC_DIM", 1024, v.Count, ("FasterRCNN", "MaskRCNN")),
    #: Channels of the four convolutions of the mask head, and of what they are enlarged by.
    Key("MODEL.ROI_MASK_HEAD.CONV_DIM", 256, v.Count, ("MaskRCNN",)),
    #: Classes of pixels.
    Key("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54, Annotated[int, v.Range(low=1, high=255)], SEGMENTERS),
    #: Channels before the classifier: of PSPNet's pooled maps, bottleneck and auxiliary head (512 on a ResNet-101, 128
    #: on a ResNet-18 in the SKD paper), of SemSegFPN's levels, of LRASPP's upper branch.
    Key("MODEL.SEM_SEG_HEAD.CONVS_DIM", 128, v.Count, ("PSPNet", "LRASPP", "SemSegFPN")),
    #: Norm layer of the head; torchvision's own heads and ESPNet have BN.
    Key("MODEL.SEM_SEG_HEAD.NORM", "BN", v.one_of("BN", "GN"), ("PSPNet", "SemSegFPN")),
    #: Share of channels that training drops before the classifiers.
    Key("MODEL.SEM_SEG_HEAD.DROPOUT", 0.1, v.BelowOne, ("PSPNet",)),
    #: Dilations of the spatial pyramid, as in torchvision.
    Key("MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [12, 24, 36], Sequence[v.Count], ("DeepLabV3",)),
    #: Factor of the cross-entropy; pixels labeled 255 never count.
    Key("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 1.0, v.NonNegative, SEGMENTERS),
    #: Factor of the auxiliary head's on stage 3 (0.4 in the PSPNet paper); 0: none.
    Key("MODEL.SEM_SEG_HEAD.AUX_WEIGHT", 0.0, v.NonNegative, ("PSPNet", "DeepLabV3", "FCN")),
    #: ESP modules that repeat at stride 4, p in the paper.
    Key("MODEL.ESPNET.LEVEL2_BLOCKS", 2, v.CountOrZero, _ESPNETS),
    #: ESP modules that repeat at stride 8, q in the paper.
    Key("MODEL.ESPNET.LEVEL3_BLOCKS", 8, v.CountOrZero, _ESPNETS),
    #: Order of the color channels.
    Key("INPUT.FORMAT", "RGB", v.one_of("RGB", "BGR")),
    #: Shorter sides of training images in pixels.
    Key("INPUT.MIN_SIZE_TRAIN", [800], Sequence[v.Count]),
    #: Train on a random piece after resizing; smaller images are padded to SIZE, labeled 255.
    Key("INPUT.CROP.ENABLED", False, bool, SEGMENTERS),
    #: SIZE is in pixels.
    Key("INPUT.CROP.TYPE", "absolute", v.one_of("absolute"), SEGMENTERS),
    #: (height, width).
    Key("INPUT.CROP.SIZE", [512, 512], v.Cells, SEGMENTERS),
    #: Portrait and landscape images stand in different batches.
    Key("DATALOADER.ASPECT_RATIO_GROUPING", True, bool),
    #: Leave training images without objects out.
    Key("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True, bool, DETECTORS),
)
