"""The keys that kd2 adds to a framework's own."""

from fvcore.common.config import CfgNode

from kd2.config.checks import COUNT, FACTOR, NAMES, POSITIVE, SIZES, Check, Checks, one_of

CHECKS: Checks = {
    "VERSION": Check(int, low=2, high=2),
    "SEED": Check(int, low=-1, high=2**32 - 1),
    "DATASETS.TRAIN": NAMES,
    "DATASETS.TEST": NAMES,
    "DATALOADER.NUM_WORKERS": COUNT,
    "INPUT.MIN_SIZE_TRAIN": SIZES,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": POSITIVE,
    "INPUT.MIN_SIZE_TEST": COUNT,
    "INPUT.MAX_SIZE_TEST": POSITIVE,
    "INPUT.PIXEL_RANGE": Check(depth=1, lengths=(0, 2)),
    "INPUT.RANDOM_FLIP": one_of("horizontal", "vertical", "none"),
    "SOLVER.MAX_ITER": COUNT,
    "SOLVER.IMS_PER_BATCH": POSITIVE,
    "SOLVER.BASE_LR": FACTOR,
    "SOLVER.BASE_LR_END": FACTOR,
    "SOLVER.MOMENTUM": Check(low=0, below=1),
    "SOLVER.WEIGHT_DECAY": FACTOR,
    "SOLVER.WEIGHT_DECAY_NORM": FACTOR,
    "SOLVER.WEIGHT_DECAY_BIAS": Check(low=0, optional=True),
    "SOLVER.GAMMA": FACTOR,
    "SOLVER.POLY_LR_POWER": FACTOR,
    "SOLVER.STEPS": Check(int, low=0, depth=1),
    "SOLVER.WARMUP_FACTOR": FACTOR,
    "SOLVER.WARMUP_ITERS": COUNT,
    "SOLVER.CHECKPOINT_PERIOD": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm", "full_model"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Check(above=0),
    "TEST.EVAL_PERIOD": COUNT,
    "TEST.DETECTIONS_PER_IMAGE": POSITIVE,
    "TEST.PRECISE_BN.NUM_ITER": POSITIVE,
    "TEST.WINDOW.SIZE": Check(int, low=1, depth=1, lengths=(0, 2)),
    "TEST.WINDOW.STRIDE": Check(int, low=1, depth=1, lengths=(0, 2)),
    "MODEL.ESPNET.LEVEL2_BLOCKS": COUNT,
    "MODEL.ESPNET.LEVEL3_BLOCKS": COUNT,
    "MODEL.PIXEL_MEAN": Check(depth=1),
    "MODEL.PIXEL_STD": Check(above=0, depth=1),
    "KD.TAPS": NAMES,
    "KD.STUDENT.TAPS": NAMES,
    "KD.TEACHER.TAPS": NAMES,
    "KD.TEACHER.CLASSES": NAMES,
    "KD.INIT_FROM_TEACHER": one_of("", "neck", "head", "neck+head"),
    "KD.UNLABELED.DATASETS": NAMES,
    "KD.UNLABELED.IMS_PER_BATCH": COUNT,
}


def add_kd_config(cfg: CfgNode) -> CfgNode:
    """Add kd2's keys to a config such as Detectron2's ``get_cfg()``; returns ``cfg``."""
    add_shared_keys(cfg)
    cfg.FRAMEWORK = "detectron2"
    add_dense_keys(cfg)
    # Unpickle checkpoints of Detectron2's zoo (.pkl). A pickle can run code: only for files that you trust.
    cfg.KD.ALLOW_PICKLE = False
    # The student's meta-architecture where MODEL.META_ARCHITECTURE is Distiller, and only there: the form of a config
    # for build_model, which kd2.engine.detectron2.distill_cfg writes. A config file names the student plainly.
    cfg.KD.STUDENT.META_ARCHITECTURE = ""
    return cfg


def add_shared_keys(cfg: CfgNode) -> None:
    """Add the keys that mean the same in every framework."""
    CN = type(cfg)  # a framework's own class of nodes merges with nothing else
    # Who trains: detectron2, torchvision (detection, segmentation) or timm (classification).
    cfg.FRAMEWORK = ""

    # Own data without Python. Name -> {JSON: file, IMAGES: folder} for COCO, or {VOC: folder, SPLIT: file of
    # ImageSets/Main} for Pascal VOC. Relative paths start at $DETECTRON2_DATASETS (default ./datasets). Classes are
    # read from the files; all data sets of a run must agree on them.
    # For segmentation: {IMAGES: folder, LABELS: folder, CLASSES: [names] or a text file with a name a line} for label
    # images of the same stem, optionally with MAP: {value: class} or {"red,green,blue": class} (default: values are the
    # classes), IGNORE: [values without a class] (default [255]; "others": all the rest, otherwise an error),
    # IMAGE_SUFFIX and LABEL_SUFFIX (what follows the stem; default any picture, .png), LIST: text file of stems. Or a
    # public layout: {CITYSCAPES | CAMVID | ADE20K | VOC_SEG | COCO_STUFF: folder, SPLIT: its name there}. Or
    # {UNLABELED: folder}, images without labels.
    # For classification: {FOLDER: folder of class folders}, {ZIP: file of class folders}, {NPZ: file},
    # {PARQUET: file or folder}, or {TORCHVISION: class, ROOT: folder, SPLIT: train}. See datasets/README.md.
    cfg.DATASETS.CUSTOM = CN(new_allowed=True)

    # Pictures of more than 8 bits (16-bit gray, integers, floats): the two values that become black (0) and white
    # (255), such as [0, 4095] of a 12-bit camera; linear between them. []: such pictures are refused. Color of 16 bits
    # a channel takes [0, 65535] alone, pictures of 8 bits are as they are. See datasets/README.md.
    cfg.INPUT.PIXEL_RANGE = []

    # SGD or AdamW of PyTorch, or any other name of timm.optim.list_optimizers().
    cfg.SOLVER.OPTIMIZER = "SGD"
    # More keyword arguments of the optimizer, such as {betas: [0.9, 0.95]}.
    cfg.SOLVER.OPTIMIZER_ARGS = CN(new_allowed=True)

    cfg.KD = CN()
    # Losses: name -> block. Keys of every block: TYPE (a registered loss; default the name), TAP (alias; default fpn),
    # WEIGHT (0: not built), START_ITER, RAMP_ITERS, STOP_ITER (iterations). The rest are the loss's own, see its file
    # in kd2/losses.
    cfg.KD.LOSSES = CN(new_allowed=True)
    # Where both networks are tapped, as alias=module.path[:key,key][@nchw|nhwc|vector|tokens[+prefix][/HxW]].
    cfg.KD.TAPS = ["fpn=backbone"]

    cfg.KD.STUDENT = CN()
    # The student's taps where they are not KD.TAPS; aliases as on the teacher's side.
    cfg.KD.STUDENT.TAPS = []

    cfg.KD.TEACHER = CN()
    # The teacher's own config file, or with FRAMEWORK detectron2 a name of its zoo such as
    # COCO-Detection/retinanet_R_101_FPN_3x.yaml. Its normalization and color order are read from there.
    cfg.KD.TEACHER.CONFIG_FILE = ""
    # Its weights: a path, a URL, or with FRAMEWORK detectron2 a name of its zoo.
    cfg.KD.TEACHER.WEIGHTS = ""
    # KEY VALUE pairs over the teacher's config file.
    cfg.KD.TEACHER.OPTS = []
    # The teacher's taps where they are not KD.TAPS.
    cfg.KD.TEACHER.TAPS = []
    # Let the teacher normalize by the batch's statistics and drop out, as in the authors' segmentation code of TaT. Its
    # weights stay frozen, its running statistics drift.
    cfg.KD.TEACHER.BATCH_STATISTICS = False
    # Go on although the checkpoint lacks weights of the teacher.
    cfg.KD.TEACHER.ALLOW_PARTIAL = False


def add_dense_keys(cfg: CfgNode) -> None:
    """Add the keys of detection and segmentation to ``KD``."""
    CN = type(cfg)
    # Start the student from parts of its teacher, after MODEL.WEIGHTS: "", neck, head or neck+head. Both must be of one
    # architecture; the backbone's body is never copied.
    cfg.KD.INIT_FROM_TEACHER = ""
    # Go on although some tensors of these parts do not agree in name and shape.
    cfg.KD.INIT_FROM_TEACHER_PARTIAL = False
    # Class names of the teacher in the order of its outputs, where its checkpoint does not tell them: losses on scores
    # need the student's names and order.
    cfg.KD.TEACHER.CLASSES = []
    # Segmentation: images without labels, for the losses alone. IMS_PER_BATCH of them (over all processes) follow the
    # labeled ones in every batch. Both or none are given.
    cfg.KD.UNLABELED = CN()
    cfg.KD.UNLABELED.DATASETS = []
    cfg.KD.UNLABELED.IMS_PER_BATCH = 0
