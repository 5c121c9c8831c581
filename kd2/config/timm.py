"""Defaults of FRAMEWORK timm (classification): Detectron2's names and meanings wherever it has the key."""

from fvcore.common.config import CfgNode as CN

from kd2.config import defaults, solver
from kd2.config.checks import COUNT, FACTOR, NAMES, POSITIVE, SHARE, Check, Checks, one_of
from kd2.data.classification.views import MODES

CHECKS: Checks = {
    **defaults.CHECKS,
    **solver.CHECKS,
    "INPUT.SIZE": POSITIVE,
    "INPUT.TEST_SCALE": Check(low=1),
    "MODEL.NUM_CLASSES": POSITIVE,
    "MODEL.CLASSES": NAMES,
    "MODEL.PIXEL_MEAN": Check(depth=1, lengths=(3,)),
    "MODEL.PIXEL_STD": Check(above=0, depth=1, lengths=(3,)),
    "MODEL.LABEL_SMOOTHING": Check(low=0, below=1),
    "MODEL.EMA.DECAY": SHARE,
    "SOLVER.MAX_EPOCHS": FACTOR,
    "SOLVER.STEPS_EPOCHS": Check(low=0, depth=1),
    "SOLVER.WARMUP_EPOCHS": FACTOR,
    "SOLVER.CHECKPOINT_EPOCHS": FACTOR,
    "TEST.EVAL_EPOCHS": FACTOR,
    "TEST.IMS_PER_BATCH": POSITIVE,
    "KD.TASK_WEIGHT": FACTOR,
    "KD.VIEWS.MODE": one_of(*MODES),
    "KD.VIEWS.SCALE": Check(low=1),
    "KD.VIEWS.PADDING": COUNT,
    "KD.VIEWS.AREA": Check(above=0, high=1, depth=1, lengths=(2,)),
    "KD.VIEWS.ASPECT": Check(above=0, depth=1, lengths=(2,)),
    "KD.VIEWS.FLIP": SHARE,
    "KD.VIEWS.MIXUP_ALPHA": Check(above=0),
    "KD.VIEWS.ENSEMBLE": POSITIVE,
}


def timm_config() -> CN:
    """A new config with every key that FRAMEWORK timm reads."""
    cfg = CN()
    cfg.VERSION = 2
    cfg.SEED = -1
    cfg.OUTPUT_DIR = "./output"
    cfg.MODEL = _model()
    cfg.INPUT = CN()
    # Side of the network's square input in pixels. A teacher's own config gives the teacher's.
    cfg.INPUT.SIZE = 224
    # Evaluation brings the shorter side to this many times SIZE and takes the center; 1.0 takes a square image whole.
    cfg.INPUT.TEST_SCALE = 256 / 224

    cfg.DATASETS = CN()
    cfg.DATASETS.TRAIN = []
    cfg.DATASETS.TEST = []
    cfg.DATALOADER = CN()
    cfg.DATALOADER.NUM_WORKERS = 4
    cfg.SOLVER = _solver()
    cfg.TEST = CN()
    # Iterations between evaluations; 0: at the end only. TEST.EVAL_EPOCHS above 0 takes its place.
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.EVAL_EPOCHS = 0.0
    cfg.TEST.IMS_PER_BATCH = 128
    # Compare with the teacher: agreement and KL beside the accuracy. Its logits of a test set are computed once a run.
    cfg.TEST.TEACHER = True
    # Evaluate and export the student with batch norm statistics of NUM_ITER batches of clean central crops; training
    # itself goes on with its own. For students that see mixed images only.
    cfg.TEST.PRECISE_BN = CN()
    cfg.TEST.PRECISE_BN.ENABLED = False
    cfg.TEST.PRECISE_BN.NUM_ITER = 200

    defaults.add_shared_keys(cfg)
    cfg.FRAMEWORK = "timm"
    _kd(cfg.KD)
    return cfg


def _model() -> CN:
    model = CN()
    # Any model of timm.list_models(), or kd2_resnet20, 32, 44, 56, 110: the networks of He et al. for CIFAR.
    model.NAME = "resnet18"
    # Keyword arguments for timm.create_model, such as {drop_path_rate: 0.1}.
    model.ARGS = CN(new_allowed=True)
    model.NUM_CLASSES = 1000
    # Class names in the order of the outputs. Data sets meet them by name; the other network must have the same order.
    # []: those that the checkpoint holds, otherwise whatever the data say.
    model.CLASSES = []
    # auto, cpu or cuda.
    model.DEVICE = "auto"
    # A kd2 checkpoint or a bare state dict of the whole network.
    model.WEIGHTS = ""
    # Start from timm's own weights (needs network access), before WEIGHTS.
    model.PRETRAINED = False
    # 0..255, RGB. Networks of timm differ: see the mean and std of timm.get_pretrained_cfg(NAME).
    model.PIXEL_MEAN = [123.675, 116.28, 103.53]
    model.PIXEL_STD = [58.395, 57.12, 57.375]
    # Layout of the convolutions in memory; faster on most devices, the same result up to rounding.
    model.CHANNELS_LAST = True
    # Of the student's own loss.
    model.LABEL_SMOOTHING = 0.0
    # Train and export the moving average of the student's weights and statistics (timm's ModelEmaV3).
    model.EMA = CN()
    model.EMA.ENABLED = False
    model.EMA.DECAY = 0.9999
    # Smaller decay in the beginning: 1 - (1 + step)^(-2/3), up to DECAY.
    model.EMA.WARMUP = True
    return model


def _solver() -> CN:
    node = solver.lightning_solver()
    # In epochs (passes over the images) when above 0, in place of the key in iterations: MAX_ITER, STEPS, WARMUP_ITERS
    # and CHECKPOINT_PERIOD. Steps matter: a thousand epochs of a thousand images are 2000 iterations of 512.
    node.MAX_EPOCHS = 0.0
    node.STEPS_EPOCHS = []
    node.WARMUP_EPOCHS = 0.0
    node.CHECKPOINT_EPOCHS = 0.0
    return node


def _kd(kd: CN) -> None:
    # Weight of the student's own cross-entropy. 0: labels play no part, and training images may have any classes.
    kd.TASK_WEIGHT = 1.0
    kd.TAPS = ["logits=@vector"]
    # Further teachers beside KD.TEACHER, a list of {CONFIG_FILE, WEIGHTS, OPTS}. The logits of all are averaged, so no
    # map inside them can be tapped. All see the view that the largest INPUT.SIZE among them gives, reduced for the
    # smaller ones.
    kd.TEACHERS = []

    views = kd.VIEWS = CN()
    # What student and teacher see of an image, kd2/data/views.py: fix/rs, fix/cc, fix/ic_ens, ind/rc, ind/ic, same/rc,
    # same/ic, same/rc+mixup, same/ic+mixup or funmatch (the same). Training on labels alone sees the student's views.
    views.MODE = "same/ic"
    # cc and rc bring the shorter side to SCALE x SIZE and cut; PADDING above 0: rc shifts the whole image by up to so
    # many pixels instead, and cc is the whole image.
    views.SCALE = 1.25
    views.PADDING = 0
    # ic keeps a share of the area between these, with width / height between those.
    views.AREA = [0.05, 1.0]
    views.ASPECT = [3 / 4, 4 / 3]
    # Probability of the mirror image in rc and ic.
    views.FLIP = 0.5
    # Mixup draws from Beta(MIXUP_ALPHA, MIXUP_ALPHA); 1 is uniform.
    views.MIXUP_ALPHA = 1.0
    # A folder for the teacher's outputs, for fix modes only: made at the first use, checked and read afterwards.
    # fix/ic_ens needs it.
    views.CACHE = ""
    # Views that fix/ic_ens averages over.
    views.ENSEMBLE = 1000
