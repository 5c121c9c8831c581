"""A tiny segmentation data set and a tiny PSPNet."""

from pathlib import Path

import numpy as np
import yaml
from fvcore.common.config import CfgNode
from PIL import Image

from kd2.config import defaults_of, merge

from .lightning_runs import merged, present

CLASSES = ["ground", "box", "bar", "ball", "bird"]  # the last two are nowhere
SIZES = [(48, 64), (64, 48), (56, 72), (48, 56), (60, 80)]  # (height, width)

PSPNET = {
    "FRAMEWORK": "torchvision",
    "SEED": 7,
    "MODEL": {
        "META_ARCHITECTURE": "PSPNet",
        "DEVICE": "cpu",
        "BACKBONE": {"NAME": "timm/test_resnet", "ARGS": {"output_stride": 8}},
        "SEM_SEG_HEAD": {"NUM_CLASSES": 5, "CONVS_DIM": 16, "AUX_WEIGHT": 0.4},
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [48, 56],
        "MAX_SIZE_TRAIN": 96,
        "MIN_SIZE_TEST": 0,
        "CROP": {"ENABLED": True, "SIZE": [48, 48]},
    },
    "DATASETS": {"TRAIN": ["drawn"], "TEST": []},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 2,
        "BASE_LR": 0.01,
        "MAX_ITER": 4,
        "WARMUP_ITERS": 2,
        "STEPS": [],
        "CHECKPOINT_PERIOD": 2,
    },
}
TAPS = ["score=classifier", "feature=classifier.bottleneck"]


def write_data(folder: Path, sizes: list[tuple[int, int]] = SIZES) -> None:
    """Noise images with bright rectangles of two classes, ``images`` and ``labels``; the rim of a rectangle is 255."""
    draw = np.random.RandomState(0)
    for name in ("images", "labels", "more"):
        (folder / name).mkdir(parents=True)
    for number, (height, width) in enumerate(sizes):
        pixels = draw.randint(0, 80, (height, width, 3), dtype=np.uint8)
        labels = np.zeros((height, width), dtype=np.uint8)
        for k in (1, 2):
            h, w = draw.randint(12, 24, 2).tolist()
            y, x = draw.randint(0, height - h), draw.randint(0, width - w)
            labels[y : y + h, x : x + w] = 255
            labels[y + 1 : y + h - 1, x + 1 : x + w - 1] = k
            pixels[y : y + h, x : x + w] = [220 if k == channel else 40 for channel in range(3)]
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(pixels[::-1]).save(folder / "more" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")


def data_sets(data: Path) -> dict:
    """Entries of ``DATASETS.CUSTOM``: ``drawn`` and, without labels, ``more``."""
    own = {"IMAGES": str(data / "images"), "LABELS": str(data / "labels"), "CLASSES": CLASSES}
    return {"drawn": own, "more": {"UNLABELED": str(data / "more")}}


def write_config(folder: Path, data: Path, changes: dict | None = None, name: str = "student") -> str:
    """The PSPNet config with ``changes`` (None takes a key away) on the data of folder ``data``; returns its path."""
    base = merged(PSPNET, {"OUTPUT_DIR": str(folder / "out"), "DATASETS": {"CUSTOM": data_sets(data)}})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(present(merged(base, changes or {}))))
    return str(path)


def config(changes: dict | None = None, data: Path | None = None) -> CfgNode:
    """The PSPNet config with ``changes``, without a file."""
    custom = {"DATASETS": {"CUSTOM": data_sets(data)}} if data else {}
    return merge(defaults_of("torchvision"), merged(merged(PSPNET, custom), changes or {}))


def distilled(teacher: Path, changes: dict | None = None) -> dict:
    """Changes that make a config learn scores and structure of the teacher trained in folder ``teacher``."""
    weights = str(teacher / "out" / "model_final.pth")
    kd = {
        "STUDENT": {"TAPS": TAPS},
        "TEACHER": {"CONFIG_FILE": str(teacher / "teacher.yaml"), "WEIGHTS": weights, "TAPS": TAPS},
        "LOSSES": {"pixelwise": {"TAP": "score", "WEIGHT": 1.0}, "pairwise": {"TAP": "feature", "WEIGHT": 1.0}},
    }
    return merged({"KD": kd}, changes or {})
