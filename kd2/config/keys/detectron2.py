"""The keys that kd2 adds to Detectron2's, and the values that Detectron2's own keys may have.

Detectron2 declares defaults and meaning of its own keys; a key that is not here may have every value of its type.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from kd2.config.keys.key import Key
from kd2.config.keys.shared import DENSE, DETECTRON2_DETECTORS, DETECTRON2_SEGMENTERS, EVERY, SCHEDULES
from kd2.distill import values as v

# Architectures whose use of keys is known; another's keys are not judged.
ARCHITECTURES = (*DETECTRON2_DETECTORS, *DETECTRON2_SEGMENTERS)

KEYS = (
    *EVERY,
    *DENSE,
    #: [data set name, factor] pairs for the weighted samplers; other data sets count once.
    Key("DATASETS.TRAIN_REPEAT_FACTOR", [], Sequence[Any]),
    #: PSPNetHead: factor of the auxiliary head's loss, on the first of IN_FEATURES (0.4 in the paper; 0: no such head).
    Key("MODEL.SEM_SEG_HEAD.AUX_WEIGHT", 0.0, v.NonNegative),
    #: PSPNetHead: share of channels that training drops before both classifiers.
    Key("MODEL.SEM_SEG_HEAD.DROPOUT", 0.1, v.BelowOne),
    #: build_espnet_backbone: ESP modules that repeat at stride 4, p in the paper.
    Key("MODEL.ESPNET.LEVEL2_BLOCKS", 2, v.CountOrZero),
    #: build_espnet_backbone: ESP modules that repeat at stride 8, q in the paper.
    Key("MODEL.ESPNET.LEVEL3_BLOCKS", 8, v.CountOrZero),
    #: A LazyConfig file of Detectron2 (.py, also a name of its zoo), which describes the model in place of the other
    #: keys of MODEL; its settings of training are the defaults of this config. --config-file FILE.py and _BASE_:
    #: FILE.py set it. It is Python, which runs: --allow-code on the command line alone allows that.
    Key("MODEL.LAZY_CONFIG", "", str, path=True),
    #: Changes of what that file says, in the form of Detectron2's lazyconfig_train_net.py: ["model.num_classes=3"].
    Key("MODEL.LAZY_OVERRIDES", [], v.Texts),
    #: Of build_timm_backbone, build_timm_fpn_backbone (p2 to p6) and build_retinanet_timm_fpn_backbone (p3 to p7): any
    #: timm model that gives feature maps of the strides 4, 8, 16 and 32, here called res2 to res5.
    Key("MODEL.TIMM.NAME", "resnet18", str),
    #: More arguments for timm.create_model: output_stride: 8 (dilated: strides 4, 8, 8 and 8), or of a ResNet channels,
    #: stem_type and stem_width.
    Key("MODEL.TIMM.ARGS", {}, dict),
    #: Start from timm's ImageNet weights (needs network access). They expect RGB and ImageNet's mean and deviation.
    Key("MODEL.TIMM.PRETRAINED", False, bool),
    #: BN: as timm builds it. FrozenBN: constant statistics and affine weights.
    Key("MODEL.TIMM.NORM", "BN", v.one_of("BN", "FrozenBN")),
    #: The student's meta-architecture where MODEL.META_ARCHITECTURE is Distiller, and only there: the form of a config
    #: for build_model, which kd2.engine.detectron2.distill_cfg writes. A config file names the student plainly.
    Key("KD.STUDENT.META_ARCHITECTURE", "", str),
)

_OPEN_SHARE = Annotated[float, v.Range(low=0, high=1, open=("low", "high"))]
_ANCHORS = Sequence[v.Positive] | Sequence[Sequence[v.Positive]]

# Allowed values -> names of Detectron2's keys.
_CHECKS: dict[Any, str] = {
    v.Count: """MODEL.FPN.OUT_CHANNELS MODEL.RPN.BATCH_SIZE_PER_IMAGE MODEL.RPN.PRE_NMS_TOPK_TRAIN
        MODEL.RPN.PRE_NMS_TOPK_TEST MODEL.RPN.POST_NMS_TOPK_TRAIN MODEL.RPN.POST_NMS_TOPK_TEST
        MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS MODEL.SEM_SEG_HEAD.NUM_CLASSES
        MODEL.SEM_SEG_HEAD.CONVS_DIM MODEL.SEM_SEG_HEAD.COMMON_STRIDE MODEL.RESNETS.NUM_GROUPS
        MODEL.RESNETS.WIDTH_PER_GROUP MODEL.RESNETS.RES2_OUT_CHANNELS MODEL.RESNETS.STEM_OUT_CHANNELS
        SOLVER.NUM_DECAYS TEST.PRECISE_BN.NUM_ITER TEST.AUG.MAX_SIZE""",
    v.CountOrZero: """MODEL.RETINANET.NUM_CONVS MODEL.ROI_BOX_HEAD.NUM_FC MODEL.ROI_BOX_HEAD.NUM_CONV
        MODEL.ROI_MASK_HEAD.NUM_CONV MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO
        MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO
        MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT VIS_PERIOD""",
    v.NonNegative: """SOLVER.BIAS_LR_FACTOR SOLVER.POLY_LR_CONSTANT_ENDING DATALOADER.REPEAT_THRESHOLD
        MODEL.PROPOSAL_GENERATOR.MIN_SIZE MODEL.RPN.LOSS_WEIGHT MODEL.RPN.BBOX_REG_LOSS_WEIGHT
        MODEL.RPN.SMOOTH_L1_BETA MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA
        MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT MODEL.SEM_SEG_HEAD.LOSS_WEIGHT MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT
        MODEL.RETINANET.FOCAL_LOSS_GAMMA MODEL.RETINANET.SMOOTH_L1_LOSS_BETA""",
    v.Share: """MODEL.RPN.NMS_THRESH MODEL.RPN.POSITIVE_FRACTION MODEL.ROI_HEADS.POSITIVE_FRACTION
        MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH
        INPUT.CROP.SINGLE_CATEGORY_MAX_AREA""",
    v.BelowOne: "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
    _OPEN_SHARE: "MODEL.RETINANET.PRIOR_PROB",
    Sequence[v.Share]: """MODEL.RPN.IOU_THRESHOLDS MODEL.ROI_HEADS.IOU_THRESHOLDS MODEL.RETINANET.IOU_THRESHOLDS
        MODEL.ROI_BOX_CASCADE_HEAD.IOUS""",
    Sequence[Literal[-1, 0, 1]]: "MODEL.RPN.IOU_LABELS MODEL.ROI_HEADS.IOU_LABELS MODEL.RETINANET.IOU_LABELS",
    _ANCHORS: "MODEL.ANCHOR_GENERATOR.SIZES MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    Sequence[v.Count]: "TEST.AUG.MIN_SIZES MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    Sequence[v.Positive]: "MODEL.PIXEL_STD",
    Sequence[v.CountOrZero]: "INPUT.MIN_SIZE_TRAIN",  # 0: the images as they are
    Annotated[Sequence[v.Positive], v.Length((2,))]: "INPUT.CROP.SIZE",
    Annotated[int, v.Range(low=0, high=5)]: "MODEL.BACKBONE.FREEZE_AT",
    v.one_of("relative_range", "relative", "absolute", "absolute_range"): "INPUT.CROP.TYPE",
    v.one_of("polygon", "bitmask"): "INPUT.MASK_FORMAT",
    v.one_of("linear", "constant"): "SOLVER.WARMUP_METHOD",
    v.one_of(*SCHEDULES, "WarmupStepWithFixedGammaLR"): "SOLVER.LR_SCHEDULER_NAME",
    v.one_of("sum", "avg"): "MODEL.FPN.FUSE_TYPE",
    v.one_of("smooth_l1", "giou", "diou", "ciou"): """MODEL.RPN.BBOX_REG_LOSS_TYPE MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE
        MODEL.RETINANET.BBOX_REG_LOSS_TYPE""",
}
CHECKS = {name: hint for hint, names in _CHECKS.items() for name in names.split()}
