"""Tiny segmentation data and networks for Detectron2."""

from pathlib import Path

import numpy as np
from PIL import Image

from .d2_tiny import COMMON, load_config, merged, save_model, write_config

CLASSES = ["ground", "box", "bar"]
SIZES = [(48, 64), (64, 48), (56, 72), (48, 56)]  # (height, width)

PSPNET = {
    "MODEL": {
        "META_ARCHITECTURE": "SemanticSegmentor",
        "BACKBONE": {"NAME": "build_timm_backbone"},
        "TIMM": {"NAME": "test_resnet", "ARGS": {"output_stride": 8}},
        "SEM_SEG_HEAD": {
            "NAME": "PSPNetHead",
            "IN_FEATURES": ["res4", "res5"],
            "NUM_CLASSES": 3,
            "CONVS_DIM": 16,
            "NORM": "BN",
            "AUX_WEIGHT": 0.4,
        },
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [40, 60],
        "MIN_SIZE_TRAIN_SAMPLING": "range",
        "MAX_SIZE_TRAIN": 200,
        "MIN_SIZE_TEST": 48,
        "CROP": {"ENABLED": True, "TYPE": "absolute", "SIZE": [48, 64]},
    },
    "KD": {"TAPS": ["score=sem_seg_head.predictor", "feature=sem_seg_head.bottleneck"]},
}
SEM_SEG_FPN = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_timm_fpn_backbone"},
        "TIMM": {"ARGS": {"output_stride": 32}},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        "SEM_SEG_HEAD": {
            "NAME": "SemSegFPNHead",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "CONVS_DIM": 32,
            "NORM": "GN",
        },
    },
}
ASPP = {"ASPP_CHANNELS": 16, "ASPP_DILATIONS": [1, 2, 3], "LOSS_TYPE": "cross_entropy"}
DEEPLAB = {
    "MODEL": {"SEM_SEG_HEAD": {"NAME": "DeepLabV3Head", "IN_FEATURES": ["res5"], "COMMON_STRIDE": 8, **ASPP}},
    "INPUT": {"CROP": {"ENABLED": False}},
}
PLUS = {"NAME": "DeepLabV3PlusHead", "IN_FEATURES": ["res2", "res5"], "PROJECT_CHANNELS": [8], "COMMON_STRIDE": 4}
DEEPLAB_PLUS = merged(DEEPLAB, {"MODEL": {"SEM_SEG_HEAD": PLUS}})
ESPNET = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_espnet_backbone"},
        "SEM_SEG_HEAD": {"NAME": "ESPNetHead", "NUM_CLASSES": 5},
    },
}
ESPNET_C = merged(ESPNET, {"MODEL": {"SEM_SEG_HEAD": {"NAME": "ESPNetCHead"}}})
NETWORKS = {
    "PSPNetHead": {},
    "SemSegFPNHead": SEM_SEG_FPN,
    "DeepLabV3Head": DEEPLAB,
    "DeepLabV3PlusHead": DEEPLAB_PLUS,
    "ESPNetHead": ESPNET,
    "ESPNetCHead": ESPNET_C,
}
# The critic wants 64 cells a side; the maps of a crop have 6 x 8.
LOSSES = {
    "pixelwise": {"TAP": "score", "WEIGHT": 1.0},
    "pairwise": {"TAP": "feature", "WEIGHT": 1.0},
    "holistic": {"TAP": "score", "WEIGHT": 0.1, "WIDTH": 4, "ENLARGE": 11, "CONDITION": "image"},
    "mgd": {"TAP": "feature", "WEIGHT": 0.0001},
}


def write_semantic(folder: Path, sizes: list[tuple[int, int]] = SIZES) -> None:
    """Images whose pixels are 100 times the class, beside labels 0 to 2 with an ignored first column."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    draw = np.random.RandomState(0)
    for number, (height, width) in enumerate(sizes):
        labels = np.zeros((height, width), np.uint8)
        for k in (1, 2):
            y, x = draw.randint(0, height // 2), draw.randint(1, width // 2)
            labels[y : y + height // 3, x : x + width // 3] = k
        Image.fromarray(np.repeat(labels[..., None] * 100, 3, 2)).save(folder / "images" / f"{number}.png")
        labels[:, 0] = 255
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")


def semantic_config(folder: Path, data: Path, *changes: dict, name: str = "student") -> str:
    """The config of a PSPNet with ``changes``, on the data of folder ``data``; returns its path."""
    entry = {"IMAGES": str(data / "images"), "LABELS": str(data / "labels"), "CLASSES": CLASSES}
    custom = {"shapes": entry, "more": {"UNLABELED": str(data / "images")}}
    sets = {"DATASETS": {"CUSTOM": custom, "TRAIN": ["shapes"]}}
    return write_config(folder, data, sets, *changes, name=name, detector=merged(COMMON, PSPNET))


def semantic_pair(folder: Path, data: Path, *changes: dict) -> str:
    """A student and its teacher of twice the width, with random weights, and ``LOSSES``."""
    wide = {"MODEL": {"SEM_SEG_HEAD": {"CONVS_DIM": 32}}, "SEED": 3}
    save_model(load_config(semantic_config(folder, data, wide, name="teacher")), folder / "teacher.pth")
    source = {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": str(folder / "teacher.pth")}
    return semantic_config(folder, data, {"KD": {"TEACHER": source, "LOSSES": LOSSES}}, *changes)
