"""What kd2 declares about Detectron2's keys. The defaults are Detectron2's own, with ``add_kd_config``."""

from kd2.config import defaults
from kd2.config.checks import FACTOR, POSITIVE, SHARE, Check, Checks, one_of

# Architectures whose use of the keys below is known; another's keys are not judged.
_DETECTORS = ("RetinaNet", "FCOS", "GeneralizedRCNN", "ProposalNetwork", "PanopticFPN")
ARCHITECTURES = (*_DETECTORS, "SemanticSegmentor", "PanopticDeepLab")

CHECKS: Checks = {
    **defaults.CHECKS,
    "SOLVER.LR_SCHEDULER_NAME": one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupPolyLR"
    ),
    "SOLVER.BIAS_LR_FACTOR": FACTOR,
    "SOLVER.MAX_ITER": POSITIVE,  # its schedules divide by it
    # 0: the images as they are.
    "INPUT.MIN_SIZE_TRAIN": Check(int, low=0, depth=1),
    "INPUT.CROP.TYPE": one_of("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.CROP.SIZE": Check(above=0, depth=1, lengths=(2,)),
    "MODEL.BACKBONE.FREEZE_AT": Check(int, low=0, high=5),
    "MODEL.RETINANET.NUM_CLASSES": POSITIVE,
    "MODEL.RETINANET.SCORE_THRESH_TEST": SHARE,
    "MODEL.RETINANET.NMS_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NUM_CLASSES": POSITIVE,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": POSITIVE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": SHARE,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": POSITIVE,
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": FACTOR,
    "MODEL.SEM_SEG_HEAD.AUX_WEIGHT": FACTOR,
    "MODEL.SEM_SEG_HEAD.DROPOUT": Check(low=0, below=1),
    "MODEL.TIMM.NORM": one_of("BN", "FrozenBN"),
}

# See kd2.config.torchvision.READ_BY.
READ_BY: dict[str, tuple[str, ...]] = {
    "TEST.WINDOW": ("SemanticSegmentor", "PanopticDeepLab"),
    "KD.UNLABELED": ("SemanticSegmentor", "PanopticDeepLab"),
}
