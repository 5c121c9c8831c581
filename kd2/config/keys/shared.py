"""The keys that mean the same with several frameworks."""

from collections.abc import Sequence
from typing import Annotated, Any

from kd2.config.keys.key import Key
from kd2.distill import values as v

# Architectures of torchvision and of Detectron2.
DETECTORS = ("RetinaNet", "FCOS", "FasterRCNN", "MaskRCNN")
SEGMENTERS = ("PSPNet", "DeepLabV3", "FCN", "LRASPP", "SemSegFPN", "ESPNetC", "ESPNet")
DETECTRON2_DETECTORS = ("RetinaNet", "FCOS", "GeneralizedRCNN", "ProposalNetwork", "PanopticFPN")
DETECTRON2_SEGMENTERS = ("SemanticSegmentor", "PanopticDeepLab")
_BOXES = tuple(dict.fromkeys((*DETECTORS, *DETECTRON2_DETECTORS)))
_FINDERS = (*DETECTORS, "GeneralizedRCNN")
_PIXELS = (*SEGMENTERS, *DETECTRON2_SEGMENTERS)
_UNLABELED = (*_FINDERS, *_PIXELS)
SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR")
Means = Annotated[Sequence[float], v.Length((3,))]
Deviations = Annotated[Sequence[v.Positive], v.Length((3,))]

# Of every framework.
EVERY = (
    #: Of the form of config files; Detectron2 has had another.
    Key("VERSION", 2, v.one_of(2)),
    #: Who trains. torchvision: detection and segmentation; timm: classification.
    Key("FRAMEWORK", "", v.one_of("detectron2", "torchvision", "timm")),
    #: Of every random draw; -1: drawn, and kept in the run's config.yaml.
    Key("SEED", -1, Annotated[int, v.Range(low=-1, high=2**32 - 1)]),
    #: Folder of the run; a relative path starts at the working folder.
    Key("OUTPUT_DIR", "./output", str),
    #: Checkpoint of the whole student to start from or to evaluate: a file, the folder of a run, an address, or a
    #: published name (docs/teachers.md); empty: a new student.
    Key("MODEL.WEIGHTS", "", str, path=True),
    #: Lay the student out in memory with the channels last: faster on most devices, the same result up to rounding.
    Key("MODEL.CHANNELS_LAST", False, bool),
    #: Evaluate and export the moving average of the student's weights and statistics; checkpoints have the weights that
    #: train beside it.
    Key("MODEL.EMA.ENABLED", False, bool),
    #: The average keeps this share of itself in each optimizer step.
    Key("MODEL.EMA.DECAY", 0.9999, v.BelowOne),
    #: Smaller decay in the beginning: 1 - (1 + step)^(-2/3), up to DECAY.
    Key("MODEL.EMA.WARMUP", True, bool),
    #: Names of the training sets, of the framework or of DATASETS.CUSTOM.
    Key("DATASETS.TRAIN", [], v.Texts),
    #: Names of the sets that are evaluated; those of an evaluation on the way: the first.
    Key("DATASETS.TEST", [], v.Texts),
    #: Own data without Python: name -> entry, see datasets/README.md. Relative paths start at $DETECTRON2_DATASETS
    #: (default ./datasets).
    Key("DATASETS.CUSTOM", {}, dict),
    #: Let names and links in the files of DATASETS.CUSTOM lead out of the folders that are given there.
    Key("DATASETS.ALLOW_OUTSIDE", False, bool),
    #: Processes that read images, for each process that trains.
    Key("DATALOADER.NUM_WORKERS", 4, v.CountOrZero),
    #: SGD or AdamW of PyTorch, or any other name of timm.optim.list_optimizers().
    Key("SOLVER.OPTIMIZER", "SGD", str),
    #: More keyword arguments of the optimizer, such as {betas: [0.9, 0.95]}.
    Key("SOLVER.OPTIMIZER_ARGS", {}, dict),
    #: Pictures of more than 8 bits (16-bit gray, integers, floats): the two values that become black (0) and white
    #: (255), such as [0, 4095] of a 12-bit camera; linear between them. Empty: such pictures are refused. Color of 16
    #: bits a channel takes [0, 65535] alone, pictures of 8 bits are as they are.
    Key("INPUT.PIXEL_RANGE", [], Annotated[Sequence[float], v.Length((0, 2))]),
    #: How many of the checkpoints on the way stay, the newest ones; 0: all.
    Key("SOLVER.KEEP_CHECKPOINTS", 0, v.CountOrZero),
    #: A metric such as bbox/AP, by the name that an evaluation prints: the student with the largest value so far is
    #: kept as model_best.pth.
    Key("TEST.BEST", "", str),
    #: Processes (GPUs) that the config is written for; 0: any number. With another number k times as large, batch and
    #: learning rates become k times what they are, and lengths in iterations (of losses START_ITER, RAMP_ITERS and
    #: STOP_ITER) a k-th, see docs/scaling.md.
    Key("SOLVER.REFERENCE_WORLD_SIZE", 0, v.CountOrZero),
    #: End the training when TEST.BEST was no better in so many evaluations on the way, one after another; 0: never. The
    #: last student is evaluated and saved as always.
    Key("TEST.PATIENCE", 0, v.CountOrZero),
    #: Optimizer steps of the training.
    Key("SOLVER.MAX_ITER", 40000, v.Count),
    #: Images of a batch, over all processes.
    Key("SOLVER.IMS_PER_BATCH", 16, v.Count),
    #: Batches of an optimizer step, which takes the mean of their gradients. Everything that counts iterations counts
    #: optimizer steps.
    Key("SOLVER.ACCUMULATE", 1, v.Count),
    #: The learning rate of the whole batch; nothing but REFERENCE_WORLD_SIZE scales it with the number of processes.
    Key("SOLVER.BASE_LR", 0.001, v.NonNegative),
    #: Where cosine and poly end.
    Key("SOLVER.BASE_LR_END", 0.0, v.NonNegative),
    #: Of SGD.
    Key("SOLVER.MOMENTUM", 0.9, v.BelowOne),
    #: SGD with Nesterov's momentum.
    Key("SOLVER.NESTEROV", False, bool),
    #: As in PyTorch: AdamW takes away LR x WEIGHT_DECAY x w in each step, SGD and Adam add WEIGHT_DECAY x w to the
    #: gradient. Papers whose decay is not multiplied by the learning rate (function matching) print wd = BASE_LR x
    #: WEIGHT_DECAY.
    Key("SOLVER.WEIGHT_DECAY", 0.0001, v.NonNegative),
    #: Of norm layers.
    Key("SOLVER.WEIGHT_DECAY_NORM", 0.0, v.NonNegative),
    #: Of biases; None: as WEIGHT_DECAY.
    Key("SOLVER.WEIGHT_DECAY_BIAS", None, v.NonNegative | None),
    #: WarmupMultiStepLR multiplies by GAMMA at every one of these iterations, in rising order. Those behind the end
    #: have no effect.
    Key("SOLVER.STEPS", [30000], Sequence[v.CountOrZero]),
    #: See STEPS.
    Key("SOLVER.GAMMA", 0.1, v.NonNegative),
    #: The power of WarmupPolyLR.
    Key("SOLVER.POLY_LR_POWER", 0.9, v.NonNegative),
    #: The warm-up is a straight line from WARMUP_FACTOR x BASE_LR to where the schedule is after WARMUP_ITERS.
    Key("SOLVER.WARMUP_FACTOR", 0.001, v.NonNegative),
    #: Iterations of the warm-up; 0: none.
    Key("SOLVER.WARMUP_ITERS", 1000, v.CountOrZero),
    #: The schedule begins behind the warm-up instead of at iteration 0.
    Key("SOLVER.RESCALE_INTERVAL", False, bool),
    #: Iterations between checkpoints.
    Key("SOLVER.CHECKPOINT_PERIOD", 5000, v.Count),
    #: Clip the gradients before each step.
    Key("SOLVER.CLIP_GRADIENTS.ENABLED", False, bool),
    #: value: each entry; norm: of each parameter's gradient; full_model: the norm of all gradients.
    Key("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", v.one_of("value", "norm", "full_model")),
    #: The most that entries or norms may have.
    Key("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, v.Positive),
    #: The norm of CLIP_TYPE norm.
    Key("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 2.0, v.Positive),
    #: Train in mixed precision; weights and evaluations stay in fp32.
    Key("SOLVER.AMP.ENABLED", False, bool),
    #: Of mixed precision. fp16, with scaled losses, is plain Detectron2's and needs a GPU; bf16 trains on the CPU too.
    Key("SOLVER.AMP.PRECISION", "fp16", v.one_of("bf16", "fp16")),
    #: Iterations between evaluations; 0: at the end only.
    Key("TEST.EVAL_PERIOD", 0, v.CountOrZero),
    #: Losses: name -> block, see the tables of losses below.
    Key("KD.LOSSES", {}, dict),
    #: The student's taps where they are not KD.TAPS; aliases as on the teacher's side.
    Key("KD.STUDENT.TAPS", [], v.Texts),
    #: The teacher's own config file, the folder of its run, or a name such as
    #: COCO-Detection/retinanet_R_101_FPN_3x.yaml of Detectron2's zoo, torchvision://NAME or timm://NAME
    #: (docs/teachers.md). Its normalization and color order are read from there.
    Key("KD.TEACHER.CONFIG_FILE", "", str, path=True),
    #: Its weights: a file, the folder of a run, an address, or a published name (docs/teachers.md).
    Key("KD.TEACHER.WEIGHTS", "", str, path=True),
    #: KEY VALUE pairs over the teacher's config file, of MODEL and INPUT.FORMAT or INPUT.SIZE.
    Key("KD.TEACHER.OPTS", [], Sequence[Any]),
    #: The teacher's taps where they are not KD.TAPS.
    Key("KD.TEACHER.TAPS", [], v.Texts),
    #: Let the teacher normalize by the batch's statistics and drop out, as in the authors' segmentation code of TaT.
    #: Its weights stay frozen, its running statistics drift.
    Key("KD.TEACHER.BATCH_STATISTICS", False, bool),
    #: Its forward pass, whatever SOLVER.AMP says of the student; empty: as the student. Its weights stay as they are.
    Key("KD.TEACHER.PRECISION", "", v.one_of("", "fp32", "bf16", "fp16")),
    #: Lay it out in memory with the channels last.
    Key("KD.TEACHER.CHANNELS_LAST", False, bool),
    #: Compile its backbone (a classifier: all of it); its taps must be what the compiled part gives.
    Key("KD.TEACHER.COMPILE", False, bool),
    #: Go on although the checkpoint lacks weights of the teacher.
    Key("KD.TEACHER.ALLOW_PARTIAL", False, bool),
)

# Of detection and segmentation.
DENSE = (
    #: choice of the sizes, or any size in the range of two.
    Key("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", v.one_of("choice", "range")),
    #: The most pixels of a training image's longer side.
    Key("INPUT.MAX_SIZE_TRAIN", 1333, v.Count),
    #: Shorter side of test images in pixels. Segmentation: 0 takes them as they are; labels and scores always have the
    #: image's own size.
    Key("INPUT.MIN_SIZE_TEST", 800, v.CountOrZero),
    #: The most pixels of a test image's longer side.
    Key("INPUT.MAX_SIZE_TEST", 1333, v.Count),
    #: Mirror images in training, with probability 0.5.
    Key("INPUT.RANDOM_FLIP", "horizontal", v.one_of("horizontal", "vertical", "none")),
    #: Large-scale jitter (arXiv 2012.07177) in place of MIN_SIZE_TRAIN and INPUT.CROP: a training image is resized to
    #: fit into SIZE times a factor from RANGE, then a random piece of SIZE is cut. Smaller images are padded with the
    #: batch, in semantic segmentation to SIZE (from DATASETS.CUSTOM; Detectron2's own sets with the batch).
    Key("INPUT.SCALE_JITTER.ENABLED", False, bool),
    #: (height, width) in pixels, the most that a training image has.
    Key("INPUT.SCALE_JITTER.SIZE", [1024, 1024], v.Cells),
    #: The smallest and the largest factor.
    Key("INPUT.SCALE_JITTER.RANGE", [0.1, 2.0], Annotated[Sequence[v.Positive], v.Length((2,))]),
    #: Above 0: the brightness of a training image is multiplied by a factor between 1 - BRIGHTNESS and 1 + BRIGHTNESS.
    Key("INPUT.COLOR_JITTER.BRIGHTNESS", 0.0, v.Share),
    #: As BRIGHTNESS, around the mean of the image.
    Key("INPUT.COLOR_JITTER.CONTRAST", 0.0, v.Share),
    #: As BRIGHTNESS, around the gray of each pixel.
    Key("INPUT.COLOR_JITTER.SATURATION", 0.0, v.Share),
    #: Classes of RetinaNet and FCOS.
    Key("MODEL.RETINANET.NUM_CLASSES", 80, v.Count, _BOXES),
    #: Detections with smaller scores are left out.
    Key("MODEL.RETINANET.SCORE_THRESH_TEST", 0.05, v.Share, _BOXES),
    #: Of two detections with a larger IoU the better one stays.
    Key("MODEL.RETINANET.NMS_THRESH_TEST", 0.5, v.Share, _BOXES),
    #: Best anchors of each level before suppression.
    Key("MODEL.RETINANET.TOPK_CANDIDATES_TEST", 1000, v.Count, _BOXES),
    #: Classes of Faster and Mask R-CNN.
    Key("MODEL.ROI_HEADS.NUM_CLASSES", 80, v.Count, _BOXES),
    #: Proposals of an image that train the heads.
    Key("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 512, v.Count, _BOXES),
    #: Detections with smaller scores are left out.
    Key("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05, v.Share, _BOXES),
    #: Of two detections with a larger IoU the better one stays.
    Key("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5, v.Share, _BOXES),
    #: Most detections of an image.
    Key("TEST.DETECTIONS_PER_IMAGE", 100, v.Count, _BOXES),
    #: Evaluate in pieces of this (height, width) in pixels of the resized image, whose scores are averaged; empty: the
    #: whole image at once.
    Key("TEST.WINDOW.SIZE", [], v.OptionalCells, _PIXELS),
    #: (y, x) pixels from one window to the next.
    Key("TEST.WINDOW.STRIDE", [], v.OptionalCells, _PIXELS),
    #: Where both networks are tapped, as alias=module.path[:key,key][@nchw, @nhwc, @vector or @tokens[+prefix][/HxW]].
    #: The path input(module.path) is what a module takes: a sum before it, say.
    #: Taps with one alias are read together, their maps in the order of the list.
    Key("KD.TAPS", ["fpn=backbone"], v.Texts),
    #: Start the student from parts of its teacher, after MODEL.WEIGHTS. Both must be of one architecture; the
    #: backbone's body is never copied.
    Key("KD.INIT_FROM_TEACHER", "", v.one_of("", "neck", "head", "neck+head")),
    #: Go on although some tensors of these parts do not agree in name and shape.
    Key("KD.INIT_FROM_TEACHER_PARTIAL", False, bool),
    #: Class names of the teacher in the order of its outputs, where its checkpoint does not tell them: losses on scores
    #: need the student's names and order, among several teachers a name in common.
    Key("KD.TEACHER.CLASSES", [], v.Texts),
    #: Further teachers, a list of {CONFIG_FILE, WEIGHTS, OPTS, TAPS, CLASSES, WEIGHT}. Each teaches every loss whose
    #: TAP is among its taps (KD.TAPS where it has none of its own), as LOSS_teacher2 and so on, with WEIGHT (1.0) times
    #: the strength of the loss. Losses on scores compare the classes that both sides know, by name.
    Key("KD.TEACHERS", [], Sequence[Any]),
    #: Images without labels, for the losses alone; labels that these sets have are left out. Of detectors, the losses'
    #: taps lie in the backbone then, and losses that need boxes take the teacher's own detections there.
    Key("KD.UNLABELED.DATASETS", [], v.Texts, _UNLABELED),
    #: So many of them (over all processes) follow the labeled ones in every batch. Both keys or none are given.
    Key("KD.UNLABELED.IMS_PER_BATCH", 0, v.CountOrZero, _UNLABELED),
    #: Detections of the teacher with smaller scores are no boxes of an unlabeled image; at least the threshold of the
    #: teacher's own evaluation, which decides suppression and number of detections.
    Key("KD.UNLABELED.SCORE_THRESH", 0.5, v.Share, _FINDERS),
)

# Of the frameworks that Lightning trains.
LIGHTNING = (
    #: auto: a GPU where there is one.
    Key("MODEL.DEVICE", "auto", v.one_of("auto", "cpu", "cuda")),
    #: 0..255, channels in INPUT.FORMAT order (timm: RGB). Networks of timm differ: see mean and std of
    #: timm.get_pretrained_cfg(NAME).
    Key("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], Means),
    #: As PIXEL_MEAN.
    Key("MODEL.PIXEL_STD", [58.395, 57.12, 57.375], Deviations),
    #: Schedule of the learning rate.
    Key("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", v.one_of(*SCHEDULES)),
)
