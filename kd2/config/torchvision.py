"""Defaults of FRAMEWORK torchvision (detection, segmentation): Detectron2's names and meanings where it has the key."""

from fvcore.common.config import CfgNode as CN

from kd2.config import defaults, solver
from kd2.config.checks import FACTOR, POSITIVE, SHARE, SIDES, Check, Checks, one_of

DETECTORS = ("RetinaNet", "FCOS", "FasterRCNN", "MaskRCNN")
SEGMENTERS = ("PSPNet", "DeepLabV3", "FCN", "LRASPP", "SemSegFPN", "ESPNetC", "ESPNet")

CHECKS: Checks = {
    **defaults.CHECKS,
    **solver.CHECKS,
    "MODEL.META_ARCHITECTURE": one_of(*DETECTORS, *SEGMENTERS),
    "MODEL.PIXEL_MEAN": Check(depth=1, lengths=(3,)),
    "MODEL.PIXEL_STD": Check(above=0, depth=1, lengths=(3,)),
    "MODEL.BACKBONE.NORM": one_of("BN", "FrozenBN", "GN"),
    "MODEL.BACKBONE.FREEZE_AT": Check(int, low=0, high=5),
    "MODEL.FPN.OUT_CHANNELS": POSITIVE,
    "MODEL.FPN.NORM": one_of("", "BN", "GN"),
    "MODEL.ANCHOR_GENERATOR.SIZES": Check(above=0, depth=2),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Check(above=0, depth=2),
    "MODEL.RETINANET.NUM_CLASSES": POSITIVE,
    "MODEL.RETINANET.NUM_CONVS": Check(int, low=1, high=4),
    "MODEL.RETINANET.NORM": one_of("", "BN", "GN"),
    "MODEL.RETINANET.SCORE_THRESH_TEST": SHARE,
    "MODEL.RETINANET.NMS_THRESH_TEST": SHARE,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": POSITIVE,
    "MODEL.ROI_HEADS.NUM_CLASSES": POSITIVE,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": POSITIVE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": Check(int, low=1, high=255),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": POSITIVE,
    "MODEL.SEM_SEG_HEAD.NORM": one_of("BN", "GN"),
    "MODEL.SEM_SEG_HEAD.DROPOUT": Check(low=0, below=1),
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": Check(int, low=1, depth=1),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": FACTOR,
    "MODEL.SEM_SEG_HEAD.AUX_WEIGHT": FACTOR,
    "INPUT.FORMAT": one_of("RGB", "BGR"),
    "INPUT.CROP.TYPE": one_of("absolute"),
    "INPUT.CROP.SIZE": SIDES,
}

# Keys, or groups of keys, and the architectures that read them; the others are read by all. The heads of one-stage and
# two-stage detectors may stand in one file, which then serves both by its META_ARCHITECTURE.
READ_BY: dict[str, tuple[str, ...]] = {
    "MODEL.BACKBONE": tuple(name for name in (*DETECTORS, *SEGMENTERS) if not name.startswith("ESPNet")),
    "MODEL.FPN": (*DETECTORS, "SemSegFPN"),
    "MODEL.ANCHOR_GENERATOR": ("RetinaNet", "FasterRCNN", "MaskRCNN"),
    "MODEL.RETINANET": DETECTORS,
    "MODEL.ROI_HEADS": DETECTORS,
    "MODEL.SEM_SEG_HEAD": SEGMENTERS,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": ("PSPNet", "LRASPP", "SemSegFPN"),
    "MODEL.SEM_SEG_HEAD.NORM": ("PSPNet", "SemSegFPN"),
    "MODEL.SEM_SEG_HEAD.DROPOUT": ("PSPNet",),
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": ("DeepLabV3",),
    "MODEL.SEM_SEG_HEAD.AUX_WEIGHT": ("PSPNet", "DeepLabV3", "FCN"),
    "MODEL.ESPNET": ("ESPNet", "ESPNetC"),
    "INPUT.CROP": SEGMENTERS,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": DETECTORS,
    "TEST.WINDOW": SEGMENTERS,
    "TEST.DETECTIONS_PER_IMAGE": DETECTORS,
    "KD.UNLABELED": SEGMENTERS,
}


def torchvision_config() -> CN:
    """A new config with every key that FRAMEWORK torchvision reads."""
    cfg = CN()
    cfg.VERSION = 2
    cfg.SEED = -1
    cfg.OUTPUT_DIR = "./output"

    model = cfg.MODEL = CN()
    # Detection: RetinaNet, FCOS, FasterRCNN or MaskRCNN. Segmentation: PSPNet, DeepLabV3, FCN, LRASPP, SemSegFPN,
    # ESPNetC or ESPNet.
    model.META_ARCHITECTURE = "RetinaNet"
    # auto, cpu or cuda.
    model.DEVICE = "auto"
    # A kd2 or torchvision checkpoint of the whole model.
    model.WEIGHTS = ""
    # 0..255, channels in INPUT.FORMAT order.
    model.PIXEL_MEAN = [123.675, 116.28, 103.53]
    model.PIXEL_STD = [58.395, 57.12, 57.375]

    model.BACKBONE = CN()
    # A torchvision ResNet or MobileNetV3 (resnet18, ..., mobilenet_v3_large), or timm/NAME. ESPNet has its own.
    model.BACKBONE.NAME = "resnet50"
    # A state dict file for the backbone alone, or IMAGENET for the library's own (needs network access).
    model.BACKBONE.WEIGHTS = ""
    # Norm layer: BN, FrozenBN or GN. FrozenBN needs pretrained weights.
    model.BACKBONE.NORM = "BN"
    # Stages frozen from the stem on, as in Detectron2 (0: none, 2: stem and the first stage). Only the parameters: use
    # FrozenBN to keep batch statistics as well.
    model.BACKBONE.FREEZE_AT = 0
    # Keyword arguments of the library's constructor: {output_stride: 8} dilates a timm network and {stem_type: deep,
    # stem_width: 64} gives its ResNet three convolutions as a stem, for example; {replace_stride_with_dilation: [False,
    # True, True]} dilates torchvision's ResNets from 50 on, {dilated: True} its MobileNetV3.
    model.BACKBONE.ARGS = CN(new_allowed=True)

    model.FPN = CN()
    model.FPN.OUT_CHANNELS = 256
    # "", BN or GN.
    model.FPN.NORM = ""

    model.ANCHOR_GENERATOR = CN()
    # Sides in pixels: one list for all levels times 2^level is not implied; give a list per level.
    model.ANCHOR_GENERATOR.SIZES = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]

    # Heads of RetinaNet and FCOS.
    model.RETINANET = CN()
    model.RETINANET.NUM_CLASSES = 80
    # 1 to 4.
    model.RETINANET.NUM_CONVS = 4
    model.RETINANET.NORM = ""
    model.RETINANET.SCORE_THRESH_TEST = 0.05
    model.RETINANET.NMS_THRESH_TEST = 0.5
    model.RETINANET.TOPK_CANDIDATES_TEST = 1000

    # Heads of Faster and Mask R-CNN.
    model.ROI_HEADS = CN()
    model.ROI_HEADS.NUM_CLASSES = 80
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 512
    model.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    model.ROI_HEADS.NMS_THRESH_TEST = 0.5

    # Segmentation.
    head = model.SEM_SEG_HEAD = CN()
    head.NUM_CLASSES = 54
    # Channels before the classifier: of PSPNet's pooled maps, bottleneck and auxiliary head (512 on a ResNet-101, 128
    # on a ResNet-18 in the SKD paper), of SemSegFPN's levels, of LRASPP's upper branch.
    head.CONVS_DIM = 128
    # BN or GN, in the heads of PSPNet and SemSegFPN; torchvision's own heads and ESPNet have BN.
    head.NORM = "BN"
    # Share of channels that training drops before PSPNet's classifiers.
    head.DROPOUT = 0.1
    # Dilations of DeepLabV3's spatial pyramid, as in torchvision.
    head.ASPP_DILATIONS = [12, 24, 36]
    # Factor of the cross-entropy; pixels labeled 255 never count.
    head.LOSS_WEIGHT = 1.0
    # Factor of the auxiliary head's on stage 3, in PSPNet, DeepLabV3 and FCN (0.4 in the PSPNet paper); 0: none.
    head.AUX_WEIGHT = 0.0
    # ESP modules of ESPNet that repeat at stride 4 and 8, p and q in the paper.
    model.ESPNET = CN()
    model.ESPNET.LEVEL2_BLOCKS = 2
    model.ESPNET.LEVEL3_BLOCKS = 8

    cfg.INPUT = CN()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN = [800]
    # choice of the sizes, or any size in the range of two.
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MAX_SIZE_TRAIN = 1333
    # Segmentation: 0 takes test images as they are. Labels and scores always have the image's own size there.
    cfg.INPUT.MIN_SIZE_TEST = 800
    cfg.INPUT.MAX_SIZE_TEST = 1333
    # horizontal, vertical or none.
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    # Segmentation: a random piece after resizing; smaller images are padded to SIZE, labeled 255.
    cfg.INPUT.CROP = CN()
    cfg.INPUT.CROP.ENABLED = False
    # absolute: SIZE is (height, width) in pixels.
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [512, 512]

    cfg.DATASETS = CN()
    cfg.DATASETS.TRAIN = []
    cfg.DATASETS.TEST = []

    cfg.DATALOADER = CN()
    cfg.DATALOADER.NUM_WORKERS = 4
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True

    cfg.SOLVER = solver.lightning_solver()

    cfg.TEST = CN()
    # Iterations between evaluations; 0: at the end only.
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Segmentation: the network sees pieces of SIZE (height, width), STRIDE (y, x) pixels apart, and their scores are
    # averaged; an empty SIZE is the whole image at once.
    cfg.TEST.WINDOW = CN()
    cfg.TEST.WINDOW.SIZE = []
    cfg.TEST.WINDOW.STRIDE = []

    defaults.add_shared_keys(cfg)
    defaults.add_dense_keys(cfg)
    cfg.FRAMEWORK = "torchvision"
    return cfg
