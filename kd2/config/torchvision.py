"""Defaults of the torchvision path: Detectron2's names and meanings wherever it has the key."""

from fvcore.common.config import CfgNode as CN

from kd2.config.defaults import add_kd_config
from kd2.config.solver import add_shared_keys


def torchvision_config() -> CN:
    """A new config with every key that the torchvision path reads."""
    cfg = CN()
    cfg.VERSION = 2
    cfg.SEED = -1
    cfg.OUTPUT_DIR = "./output"

    model = cfg.MODEL = CN()
    # Detection: RetinaNet, FCOS, FasterRCNN or MaskRCNN. Segmentation: PSPNet, DeepLabV3, FCN, LRASPP, SemSegFPN, ESPNetC
    # or ESPNet.
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
    head.NUM_CLASSES = 19
    # Channels before the classifier: of PSPNet's pooled maps, bottleneck and auxiliary head (512 on a ResNet-101 and 128 on
    # a ResNet-18 in the SKD paper), of SemSegFPN's levels, of LRASPP's upper branch.
    head.CONVS_DIM = 128
    # BN or GN, in the heads of PSPNet and SemSegFPN; torchvision's own heads and ESPNet have BN.
    head.NORM = "BN"
    # Share of channels that training drops before PSPNet's classifiers.
    head.DROPOUT = 0.1
    # Dilations of DeepLabV3's spatial pyramid.
    head.ASPP_DILATIONS = [12, 24, 36]
    # Factor of the cross-entropy; pixels labeled 255 never count.
    head.LOSS_WEIGHT = 1.0
    # Factor of the auxiliary head's on stage 3, in PSPNet, DeepLabV3 and FCN (0.4 in the PSPNet paper); 0: no such head.
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

    solver = cfg.SOLVER = CN()
    solver.MAX_ITER = 40000
    solver.IMS_PER_BATCH = 16
    solver.BASE_LR = 0.001
    # End value of the cosine schedule.
    solver.BASE_LR_END = 0.0
    # WarmupMultiStepLR, WarmupCosineLR or WarmupPolyLR.
    solver.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    solver.STEPS = [30000]
    solver.WARMUP_FACTOR = 0.001
    solver.WARMUP_ITERS = 1000
    # The decay begins behind the warm-up instead of at iteration 0.
    solver.RESCALE_INTERVAL = False
    solver.CHECKPOINT_PERIOD = 5000
    add_shared_keys(solver)

    cfg.TEST = CN()
    # Iterations between evaluations; 0: at the end only.
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Segmentation: the network sees pieces of SIZE (height, width), STRIDE (y, x) pixels apart, and their scores are
    # averaged; an empty SIZE is the whole image at once.
    cfg.TEST.WINDOW = CN()
    cfg.TEST.WINDOW.SIZE = []
    cfg.TEST.WINDOW.STRIDE = []

    add_kd_config(cfg)
    cfg.FRAMEWORK = "torchvision"
    return cfg
