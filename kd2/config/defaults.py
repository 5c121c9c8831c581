"""The keys that kd2 adds to a framework's own."""

from fvcore.common.config import CfgNode


def add_kd_config(cfg: CfgNode) -> CfgNode:
    """Add kd2's keys to a config such as Detectron2's ``get_cfg()``; returns ``cfg``."""
    CN = type(cfg)  # a framework's own class of nodes merges with nothing else
    # Which bridge trains: detectron2, torchvision or timm (classification).
    cfg.FRAMEWORK = "detectron2"

    # Own data without Python. Name -> {JSON: file, IMAGES: folder} for COCO, or {VOC: folder, SPLIT: file of
    # ImageSets/Main} for Pascal VOC. Relative paths start at $DETECTRON2_DATASETS (default ./datasets). Classes are read
    # from the files; all data sets of a run must agree on them.
    # For segmentation: {IMAGES: folder, LABELS: folder, CLASSES: [names] or a text file with a name a line} for label
    # images of the same stem, optionally with MAP: {value: class} or {"red,green,blue": class} (default: values are the
    # classes), IGNORE: [values without a class] (default [255]; "others": all the rest, otherwise an error),
    # IMAGE_SUFFIX and LABEL_SUFFIX (what follows the stem; default any picture, .png), LIST: text file of stems. Or a
    # public layout: {CITYSCAPES | CAMVID | ADE20K | VOC_SEG | COCO_STUFF: folder, SPLIT: its name there}. Or
    # {UNLABELED: folder}, images without labels. See datasets/README.md.
    cfg.DATASETS.CUSTOM = CN(new_allowed=True)

    # SGD or AdamW.
    cfg.SOLVER.OPTIMIZER = "SGD"

    cfg.KD = CN()
    # Losses: name -> block. Keys of every block: TYPE (a file of kd2/losses; default the name), TAP (alias; default
    # fpn), WEIGHT (0: not built), START_ITER, RAMP_ITERS, STOP_ITER (iterations). The rest are the loss's own, see its file.
    cfg.KD.LOSSES = CN(new_allowed=True)
    # Start the student from parts of its teacher, after MODEL.WEIGHTS: "", neck, head or neck+head. Both must be of one
    # architecture; the backbone's body is never copied.
    cfg.KD.INIT_FROM_TEACHER = ""
    # Go on although some tensors of these parts do not agree in name and shape.
    cfg.KD.INIT_FROM_TEACHER_PARTIAL = False
    # Unpickle checkpoints of Detectron2's zoo (.pkl). A pickle can run code: only for files that you trust.
    cfg.KD.ALLOW_PICKLE = False

    # Images without labels, for the losses alone: IMS_PER_BATCH of them (over all processes) follow the labeled ones in
    # every batch. Both or none are given.
    cfg.KD.UNLABELED = CN()
    cfg.KD.UNLABELED.DATASETS = []
    cfg.KD.UNLABELED.IMS_PER_BATCH = 0

    # Where to capture on both sides, as alias=module.path[:key,key][@nchw|nhwc|vector|tokens[+prefix][/HxW]].
    cfg.KD.TAPS = ["fpn=backbone"]

    cfg.KD.STUDENT = CN()
    # The student's meta-architecture where MODEL.META_ARCHITECTURE is Distiller, and only there.
    cfg.KD.STUDENT.META_ARCHITECTURE = ""
    # The student's taps where they are not KD.TAPS.
    cfg.KD.STUDENT.TAPS = []

    cfg.KD.TEACHER = CN()
    # The teacher's own config file: a path relative to this file, to the working folder, or a Detectron2 zoo name such as
    # COCO-Detection/retinanet_R_101_FPN_3x.yaml. Its normalization and color order are read from there.
    cfg.KD.TEACHER.CONFIG_FILE = ""
    # Its weights: a path, a URL, or a zoo name.
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
    return cfg
