"""A tiny data set, tiny detectors and tiny runs for Detectron2."""

import argparse
import contextlib
import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from kd2.config import read
from kd2.distill import Distiller
from kd2.engine import ONE_PROCESS
from kd2.engine.detectron2 import distill_cfg
from kd2.engine.detectron2.config import run_config
from kd2.engine.detectron2.models import build_plain
from kd2.engine.detectron2.run import run

SIZES = [(64, 80), (80, 64), (72, 96), (64, 72), (96, 72), (70, 90)]  # (height, width)
IMITATION = {"imitation": {"WEIGHT": 0.0001}}

COMMON = {
    "FRAMEWORK": "detectron2",
    "VERSION": 2,
    "SEED": 7,
    "MODEL": {
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "BACKBONE": {"FREEZE_AT": 0},
        "TIMM": {"NAME": "test_resnet"},
        "FPN": {"OUT_CHANNELS": 16},
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64, 72], "MAX_SIZE_TRAIN": 96, "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
    "DATASETS": {"TRAIN": ["tiny"], "TEST": []},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 2,
        "BASE_LR": 0.001,
        "MAX_ITER": 4,
        "WARMUP_ITERS": 2,
        "STEPS": [3],
        "CHECKPOINT_PERIOD": 2,
    },
}
RETINANET = {
    "MODEL": {
        "META_ARCHITECTURE": "RetinaNet",
        "BACKBONE": {"NAME": "build_retinanet_timm_fpn_backbone"},
        "FPN": {"IN_FEATURES": ["res3", "res4", "res5"]},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RETINANET": {"NUM_CLASSES": 2, "NUM_CONVS": 1, "IOU_THRESHOLDS": [0.4, 0.5], "IOU_LABELS": [0, -1, 1]},
    },
}
FASTER_RCNN = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "BACKBONE": {"NAME": "build_timm_fpn_backbone"},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "BATCH_SIZE_PER_IMAGE": 16,
            "POST_NMS_TOPK_TRAIN": 50,
            "POST_NMS_TOPK_TEST": 20,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NUM_CLASSES": 2,
            "BATCH_SIZE_PER_IMAGE": 16,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 3},
    },
    "KD": {"TAPS": ["fpn=backbone:p2,p3,p4,p5"]},
}
DETECTORS = {"RetinaNet": RETINANET, "GeneralizedRCNN": FASTER_RCNN}


def write_data(folder: Path, classes: tuple[str, ...] = ("box", "bar")) -> dict:
    """Noise images with two bright rectangles each, as ``coco.json`` and ``images``; returns the JSON's content."""
    (folder / "images").mkdir(parents=True)
    draw = np.random.RandomState(0)
    categories = [{"id": 3 * i + 2, "name": name} for i, name in enumerate(classes)]
    content = {"images": [], "annotations": [], "categories": categories}
    for number, (height, width) in enumerate(SIZES):
        pixels = draw.randint(0, 80, (height, width, 3), dtype=np.uint8)
        for k in range(2):
            w, h = draw.randint(16, 32, 2).tolist()
            x, y = int(draw.randint(0, width - w)), int(draw.randint(0, height - h))
            pixels[y : y + h, x : x + w, k] = 220
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 10 + number,
                    "category_id": categories[k]["id"],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        content["images"].append({"id": 10 + number, "file_name": f"{number}.png", "height": height, "width": width})
    (folder / "coco.json").write_text(json.dumps(content))
    return content


def write_config(folder: Path, data: Path, *changes: dict, name: str = "student", detector: dict = RETINANET) -> str:
    """The config of ``detector`` with ``changes``, trained on the data of folder ``data``; returns its path."""
    custom = {"tiny": {"JSON": str(data / "coco.json"), "IMAGES": str(data / "images")}}
    content = {"OUTPUT_DIR": str(folder / "out"), "DATASETS": {"CUSTOM": custom}}
    for part in (COMMON, detector, *changes):
        content = merged(content, part)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def write_pair(folder: Path, data: Path, *changes: dict, detector: dict = RETINANET) -> str:
    """A student with an imitation loss and its teacher of twice the width, with random weights, in ``folder``."""
    wide = {"MODEL": {"FPN": {"OUT_CHANNELS": 32}}, "SEED": 3}
    teacher = load_config(write_config(folder, data, wide, name="teacher", detector=detector))
    save_model(teacher, folder / "teacher.pth")
    source = {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": str(folder / "teacher.pth")}
    return write_config(folder, data, {"KD": {"TEACHER": source, "LOSSES": IMITATION}}, *changes, detector=detector)


def every_loss(**common: int) -> dict:
    """Changes that add every other type of loss, on taps of a RetinaNet that suit it, to the one of ``write_pair``.

    ``common`` keys (START_ITER, RAMP_ITERS, STOP_ITER) are added to each block.
    """
    losses = {
        "imitation": {},
        "hint": {"WEIGHT": 0.001, "TAP": "fine", "RELU": False},
        "logits": {"WEIGHT": 0.1, "TAP": "cls", "TEMPERATURE": 2.0},
        "mgd": {"WEIGHT": 0.0001, "RATIO": 0.5},
        "fgd": {"WEIGHT": 0.1},
        "tat": {"WEIGHT": 0.1, "TAP": "fine", "ANCHOR_WEIGHT": 0.4, "ANCHOR_SIZE": [2, 2]},
        "mimic": {"WEIGHT": 0.0001},
        "pkd": {"WEIGHT": 0.1},
        "channel_kd": {"WEIGHT": 0.1, "TAP": "cls"},
        "pixelwise": {"WEIGHT": 0.1, "TAP": "cls"},
        "pairwise": {"WEIGHT": 0.1, "TAP": "fine"},
        "holistic": {"WEIGHT": 0.1, "TAP": "body", "ENLARGE": 8, "WIDTH": 2},
        "dense_kd": {"WEIGHT": 0.1, "TAP": "dense", "BOX": "giou", "POSITIONS": "mask"},
        "dist": {"WEIGHT": 0.1, "TAP": "cls", "ACTIVATION": "sigmoid", "ROW": "anchor"},
    }
    taps = ["fpn=backbone", "fine=backbone:p3,p4", "cls=head.cls_score", "body=backbone.bottom_up:res3"]
    taps += ["dense=head.cls_score", "dense=head.bbox_pred"]
    blocks = {name: block | common for name, block in losses.items()}
    return {"KD": {"TAPS": taps, "LOSSES": blocks}}


def load_config(path: str, options: Sequence[str] = ()) -> CfgNode:
    """The config of a run, as ``tools/train_net.py --config-file path *options`` has it."""
    return run_config(read(path, list(options)), path)


def student_of(cfg: CfgNode) -> torch.nn.Module:
    """The plain student of a config, with weights from the global generator."""
    return build_plain(cfg, "MODEL.META_ARCHITECTURE")


def distiller_of(cfg: CfgNode) -> Distiller:
    """What a script of one's own gets from ``build_model``."""
    return build_model(distill_cfg(cfg))


def save_model(cfg: CfgNode, path: Path) -> None:
    """Freshly drawn weights of the config's model as a checkpoint."""
    torch.manual_seed(cfg.SEED)
    torch.save({"model": student_of(cfg).state_dict()}, path)


def merged(base: dict, changes: dict) -> dict:
    """``base`` with the entries of ``changes``, group by group."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def previous(folder: Path) -> None:
    """Make the checkpoint after two iterations the last one of a finished run."""
    (folder / "last_checkpoint").write_text("model_0000001.pth")


def train(config: str, *options: str, **changes) -> dict[str, float]:
    """``tools/train_net.py --config-file config *options`` in this process, without its log on the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run(read(config, list(options)), config, argparse.Namespace(**(vars(ONE_PROCESS) | changes)))


def weights(folder: str | Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, adapters included."""
    content = torch.load(Path(folder) / name, weights_only=True)
    return content["model"] | {f"adapters.{k}": v for k, v in content["adapters"].items()}


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names that differ between two state dicts; empty when they are equal bit for bit."""
    return sorted(set(a) ^ set(b)) + [name for name in a if name in b and not torch.equal(a[name], b[name])]
