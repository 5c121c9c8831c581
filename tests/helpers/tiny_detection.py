"""A tiny data set and tiny configs: everything a detector needs, in a fraction of a second."""

import json
from pathlib import Path

import numpy as np
import yaml
from fvcore.common.config import CfgNode
from PIL import Image

from kd2.config import defaults_of, merge

from .lightning_runs import merged, present

SIZES = [(64, 80), (80, 64), (72, 96), (64, 72), (96, 72), (70, 90)]  # (height, width)

RETINANET = {
    "FRAMEWORK": "torchvision",
    "SEED": 7,
    "MODEL": {
        "META_ARCHITECTURE": "RetinaNet",
        "DEVICE": "cpu",
        "BACKBONE": {"NAME": "timm/test_resnet"},
        "FPN": {"OUT_CHANNELS": 16},
        "RETINANET": {"NUM_CLASSES": 2, "NUM_CONVS": 1},
        "ROI_HEADS": {"NUM_CLASSES": 2, "BATCH_SIZE_PER_IMAGE": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64, 72], "MAX_SIZE_TRAIN": 96, "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
    "DATASETS": {"TRAIN": ["tiny"], "TEST": []},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 2,
        "BASE_LR": 0.01,
        "MAX_ITER": 6,
        "WARMUP_ITERS": 2,
        "STEPS": [4],
        "CHECKPOINT_PERIOD": 3,
    },
}
FASTER_RCNN = {"MODEL": {"META_ARCHITECTURE": "FasterRCNN"}}
# Every type of loss, on taps that suit it.
EVERY_TAP = ["fpn=backbone", "fine=backbone:0,1", "cls=head.classification_head.cls_logits", "body=backbone.body:0"]
EVERY_TAP += ["dense=head.classification_head.cls_logits", "dense=head.regression_head.bbox_reg"]
EVERY_LOSS = {
    "imitation": {"WEIGHT": 0.1},
    "hint": {"WEIGHT": 0.01, "TAP": "fine", "RELU": False},
    "logits": {"WEIGHT": 0.1, "TAP": "cls", "TEMPERATURE": 2.0},
    "mgd": {"WEIGHT": 0.001, "RATIO": 0.5},
    "fgd": {"WEIGHT": 1.0},
    "tat": {"WEIGHT": 0.1, "TAP": "fine", "ANCHOR_WEIGHT": 0.4, "ANCHOR_SIZE": [2, 2]},
    "mimic": {"WEIGHT": 0.001},
    "pkd": {"WEIGHT": 0.1},
    "channel_kd": {"WEIGHT": 0.1, "TAP": "cls"},
    "pixelwise": {"WEIGHT": 0.1, "TAP": "cls"},
    "pairwise": {"WEIGHT": 0.1, "TAP": "fine"},
    "holistic": {"WEIGHT": 0.1, "TAP": "body", "ENLARGE": 8, "WIDTH": 2},
    "dense_kd": {"WEIGHT": 0.1, "TAP": "dense", "BOX": "giou", "POSITIONS": "mask"},
    "dist": {"WEIGHT": 0.1, "TAP": "cls", "ACTIVATION": "sigmoid", "ROW": "anchor", "CLIP_TO_IMAGE": True},
}


def write_data(folder: Path, sizes: list[tuple[int, int]] = SIZES, classes: tuple[str, ...] = ("box", "bar")) -> dict:
    """Noise images with two bright rectangles each, as ``coco.json`` and ``images``; returns the JSON's content."""
    (folder / "images").mkdir(parents=True)
    draw = np.random.RandomState(0)
    categories = [{"id": 3 * i + 2, "name": name} for i, name in enumerate(classes)]
    content = {"images": [], "annotations": [], "categories": categories}
    for number, (height, width) in enumerate(sizes):
        pixels = draw.randint(0, 80, (height, width, 3), dtype=np.uint8)
        for k in range(2):
            w, h = draw.randint(16, 32, 2).tolist()
            x, y = draw.randint(0, width - w), draw.randint(0, height - h)
            pixels[y : y + h, x : x + w, k] = 220
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 10 + number,
                    "category_id": categories[k % len(categories)]["id"],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        content["images"].append({"id": 10 + number, "file_name": f"{number}.png", "height": height, "width": width})
    (folder / "coco.json").write_text(json.dumps(content))
    return content


def write_config(folder: Path, data: Path, changes: dict | None = None, name: str = "student") -> str:
    """The RetinaNet config with ``changes`` (None takes a key away) on the data of a folder; returns its path."""
    content = merged(RETINANET, changes or {})
    custom = {"tiny": {"JSON": str(data / "coco.json"), "IMAGES": str(data / "images")}}
    content = merged({"OUTPUT_DIR": str(folder / "out"), "DATASETS": {"CUSTOM": custom}}, content)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(present(content)))
    return str(path)


def config(changes: dict | None = None) -> CfgNode:
    """The RetinaNet config with ``changes``, without a file."""
    return merge(defaults_of("torchvision"), merged(RETINANET, changes or {}))


def distilled(teacher: Path, changes: dict | None = None) -> dict:
    """Changes that make a config imitate the teacher trained in folder ``teacher``."""
    own = {"CONFIG_FILE": str(teacher / "teacher.yaml"), "WEIGHTS": str(teacher / "out" / "model_final.pth")}
    return merged({"KD": {"TEACHER": own, "LOSSES": {"imitation": {"WEIGHT": 0.1}}}}, changes or {})


def with_every_loss(teacher: Path, **common: int) -> dict:
    """The same with all of ``EVERY_LOSS``, ``common`` keys (START_ITER, RAMP_ITERS, STOP_ITER) added to each block."""
    losses = {name: block | common for name, block in EVERY_LOSS.items()}
    sides = {"STUDENT": {"TAPS": EVERY_TAP}, "TEACHER": {"TAPS": EVERY_TAP}}
    return distilled(teacher, {"KD": {**sides, "LOSSES": losses}})
