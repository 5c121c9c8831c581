"""A tiny student and teacher of every family of Detectron2's models, drawn data for each, and the losses on them."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from kd2.engine.permission import permitted
from kd2.losses.registry import LOSSES

from .d2_semantic import CLASSES, DEEPLAB_PLUS, PSPNET, SEM_SEG_FPN, write_semantic
from .d2_tiny import COMMON, FASTER_RCNN, RETINANET, SIZES, load_config, merged, save_model, write_config, write_data

LAZY = Path(__file__).parent / "lazy"
OBJECTS, PANOPTIC, PIXELS = "family_objects", "family_panoptic", "family_pixels"
SEGMENTS = "family_segments"
_BESIDE_LAZY = ("DEVICE", "WEIGHTS", "LAZY_CONFIG", "LAZY_OVERRIDES")
SCORES = {"RetinaNet": "head.cls_score", "R-CNN": "proposal_generator.rpn_head.objectness_logits"}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        config: its tiny form, over the common keys.
        features, scores: taps of the aliases ``fpn`` and ``score``.
        data: name of the data set that trains it; ``test``: of the one that scores it, where it is another.
        heads: alias of ``HEADS`` -> places of what the family's heads predict, one behind the other.
    """

    config: dict = field(hash=False)
    features: str = "backbone:p2,p3,p4,p5"
    scores: str = SCORES["R-CNN"]
    data: str = OBJECTS
    test: str = ""
    heads: Mapping[str, list[str]] = field(default_factory=dict)

    def taps(self, alias: str) -> list[str]:
        """The taps of an alias, as a config writes them."""
        places = {"fpn": [self.features], "score": [self.scores], **self.heads}[alias]
        return [f"{alias}={place}" for place in places]


def _lazy(name: str, *overrides: str) -> dict:
    return {"MODEL": {"LAZY_CONFIG": str(LAZY / f"{name}.py"), "LAZY_OVERRIDES": list(overrides)}}


def _rcnn(**model: Any) -> dict:
    return merged(FASTER_RCNN, {"MODEL": model})


_BITMASK = {"INPUT": {"MASK_FORMAT": "bitmask"}}
_MASK = {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 7}
_KEYPOINT = {"NUM_KEYPOINTS": 3, "CONV_DIMS": [8], "POOLER_RESOLUTION": 7, "MIN_KEYPOINTS_PER_IMAGE": 1}
_CASCADE = {"ROI_HEADS": {"NAME": "CascadeROIHeads"}, "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True}}
_POINTS = {
    "ROI_MASK_HEAD": {"POOLER_TYPE": "", "NAME": "PointRendMaskHead", "FC_DIM": 8, "NUM_FC": 1, "CONV_DIM": 8,
                      "POINT_HEAD_ON": True, "OUTPUT_SIDE_RESOLUTION": 7},
    "POINT_HEAD": {"NUM_CLASSES": 2, "FC_DIM": 8, "NUM_FC": 1, "TRAIN_NUM_POINTS": 16, "SUBDIVISION_STEPS": 2,
                   "SUBDIVISION_NUM_POINTS": 16},
}  # fmt: skip
_STUFF = {"NUM_CLASSES": 3, "CONVS_DIM": 32, "NORM": "GN", "LOSS_WEIGHT": 0.5}
_DENSE = {
    "features": "backbone:p3,p4,p5", "scores": SCORES["RetinaNet"],
    "heads": {"dense": ["head.cls_score", "head.bbox_pred"]},
}  # fmt: skip
_ROI = {"heads": {"roi": ["roi_heads.box_predictor@vector"]}}
_STAGES = {"heads": {"roi": [f"roi_heads.box_predictor.{stage}@vector" for stage in range(3)]}}
_BRANCH = {
    "IN_FEATURES": ["res2", "res3", "res5"], "PROJECT_FEATURES": ["res2", "res3"], "PROJECT_CHANNELS": [8, 8],
    "ASPP_CHANNELS": 16, "ASPP_DILATIONS": [1, 2, 3], "HEAD_CHANNELS": 8, "CONVS_DIM": 16, "NORM": "BN",
}  # fmt: skip
_PANOPTIC_DEEPLAB = {
    "MODEL": {
        "META_ARCHITECTURE": "PanopticDeepLab",
        "BACKBONE": {"NAME": "build_timm_backbone"},
        "SEM_SEG_HEAD": {"NAME": "PanopticDeepLabSemSegHead", "NUM_CLASSES": 3, **_BRANCH},
        "INS_EMBED_HEAD": _BRANCH,
    },
}
_PIXELS = {"scores": "sem_seg_head.predictor", "data": PIXELS}

FAMILIES = {
    "RetinaNet": Family(RETINANET, **_DENSE),
    "FCOS": Family(_lazy("fcos"), **_DENSE),
    "Faster R-CNN": Family(FASTER_RCNN, **_ROI),
    "Mask R-CNN": Family(_rcnn(MASK_ON=True, ROI_MASK_HEAD=_MASK), **_ROI),
    "Keypoint R-CNN": Family(
        merged(
            _rcnn(KEYPOINT_ON=True, ROI_KEYPOINT_HEAD=_KEYPOINT), {"TEST": {"KEYPOINT_OKS_SIGMAS": [0.1, 0.1, 0.1]}}
        ),
        **_ROI,
    ),
    "Cascade R-CNN": Family(merged(FASTER_RCNN, {"MODEL": _CASCADE}), **_STAGES),
    "Cascade Mask R-CNN": Family(merged(_rcnn(MASK_ON=True, ROI_MASK_HEAD=_MASK), {"MODEL": _CASCADE}), **_STAGES),
    "Panoptic FPN": Family(
        _rcnn(META_ARCHITECTURE="PanopticFPN", MASK_ON=True, ROI_MASK_HEAD=_MASK, SEM_SEG_HEAD=_STUFF),
        scores="sem_seg_head.predictor", data=PANOPTIC, **_ROI,
    ),
    "PointRend": Family(merged(_rcnn(MASK_ON=True, **_POINTS), _BITMASK), **_ROI),
    "ViTDet": Family(_lazy("vitdet"), **_ROI),
    "Swin": Family(_lazy("swin"), **_ROI),
    "MViTv2": Family(_lazy("mvit"), **_ROI),
    "Semantic FPN": Family(merged(PSPNET, SEM_SEG_FPN), **_PIXELS),
    "DeepLabV3+": Family(merged(PSPNET, DEEPLAB_PLUS), features="backbone:res5", **_PIXELS),
    "Panoptic-DeepLab": Family(
        _PANOPTIC_DEEPLAB, features="backbone:res5", scores=_PIXELS["scores"], data=SEGMENTS, test=PIXELS
    ),
}  # fmt: skip

# Losses of predictions, and the alias of the heads that they compare.
HEADS = {"dense_kd": "dense", "roi_kd": "roi"}
# Options by which a loss suits tiny maps; a loss that is not here runs with its defaults. The weight is fixed: a share
# of a student's gradient is 0 on levels where the few boxes of tiny images send none.
OPTIONS = {
    "holistic": {"ENLARGE": 11, "WIDTH": 2},
    "hint": {"RELU": False, "ADAPTER": "conv1x1"},
    "imitation": {"LEVEL_RULE": "per_level"},
    "roi_kd": {"BOX": "smooth_l1"},
}
# The same for one family: an FCOS has points instead of anchors; the tap of dense heads has boxes too.
OPTIONS_OF = {
    ("FCOS", "imitation"): {"ANCHORS": "retinanet"},
    ("RetinaNet", "dense_kd"): {"BOX": "giou"},
    ("FCOS", "dense_kd"): {"BOX": "giou"},
}


@contextlib.contextmanager
def drawn_families(folder: Path) -> Iterator[Path]:
    """Draws the data sets into ``folder``, in Detectron2's catalogs for the duration of the block."""
    content = write_data(folder)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation["keypoints"] = [x + 2, y + 2, 2, x + w - 2, y + 2, 2, x + w // 2, y + h - 2, 2]
        annotation["num_keypoints"] = 3
    for category in content["categories"]:
        category.update(keypoints=["a", "b", "c"], skeleton=[])
    path = folder / "objects.json"
    path.write_text(json.dumps(content))
    for number, (height, width) in enumerate(SIZES):
        labels = np.full((height, width), 1, np.uint8)
        labels[height // 2 :] = 2
        Image.fromarray(labels).save(folder / f"{number}.png")
        things = [a for a in content["annotations"] if a["image_id"] == 10 + number]
        Image.fromarray(_colors(labels, things)).save(folder / f"panoptic_{number}.png")
    write_semantic(folder / "pixels")
    images = str(folder / "images")
    DatasetCatalog.register(OBJECTS, functools.partial(load_coco_json, str(path), images, OBJECTS))
    DatasetCatalog.register(PANOPTIC, functools.partial(_with_pixels, path, images))
    DatasetCatalog.register(SEGMENTS, functools.partial(_segments, path, images))
    MetadataCatalog.get(SEGMENTS).set(
        stuff_classes=CLASSES, thing_dataset_id_to_contiguous_id={0: 0}, label_divisor=1000, ignore_label=255
    )
    points = {"keypoint_names": ["a", "b", "c"], "keypoint_flip_map": []}
    files = {"evaluator_type": "coco", "json_file": str(path), "image_root": images}
    MetadataCatalog.get(OBJECTS).set(**files, **points)
    MetadataCatalog.get(PANOPTIC).set(**files, stuff_classes=["things", "top", "bottom"], ignore_label=255)
    try:
        with permitted(code=True):
            yield folder
    finally:
        for name in (OBJECTS, PANOPTIC, SEGMENTS):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _colors(labels: np.ndarray, things: list[dict]) -> np.ndarray:
    """Ids of segments as colors: the halves of an image are 1 and 2, its objects 3 and 4."""
    ids = labels.copy()
    for number, thing in enumerate(things):
        x, y, w, h = thing["bbox"]
        ids[y : y + h, x : x + w] = 3 + number
    return np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], 2)


def _segments(path: Path, images: str) -> list[dict]:
    """Records in the form of Detectron2's panoptic data sets: class 0 is the things, 1 and 2 are stuff."""
    kinds = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}, *({"id": i, "category_id": 0} for i in (3, 4))]
    return [
        {
            "file_name": f"{images}/{number}.png",
            "image_id": 10 + number,
            "pan_seg_file_name": str(path.parent / f"panoptic_{number}.png"),
            "segments_info": [{**kind, "iscrowd": 0} for kind in kinds],
        }
        for number in range(len(SIZES))
    ]


def _with_pixels(path: Path, images: str) -> list[dict]:
    found = load_coco_json(str(path), images, PANOPTIC)
    return [{**record, "sem_seg_file_name": str(path.parent / f"{record['image_id'] - 10}.png")} for record in found]


def tap_of(loss: str, family: Family) -> str:
    """The alias on which a loss listens: heads that it asks for and the family has, scores where it compares classes,
    otherwise features."""
    if HEADS.get(loss) in family.heads:
        return HEADS[loss]
    return "score" if getattr(LOSSES.get(loss).loss, "over_classes", False) else "fpn"


def family_config(folder: Path, data: Path, name: str, *losses: str, teacher: str = "", **changes: Any) -> str:
    """The config of a student of a family under a teacher of the same or another one; returns its path.

    Args:
        folder: receives configs, the teacher's weights and what a run writes.
        data: a folder of ``drawn_families``.
        losses: each on the tap of ``tap_of``, with ``OPTIONS``.
        changes: groups of keys over the student's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student, other = FAMILIES[name], FAMILIES[teacher or name]
    weights = folder / "teacher.pth"
    teacher_file = _written(folder, data, other, {"SEED": 3}, name="teacher")
    save_model(load_config(teacher_file), weights)
    aliases = dict.fromkeys(tap_of(loss, student) for loss in losses)
    sides = {
        side: {"TAPS": [text for alias in aliases for text in family.taps(alias)]}
        for side, family in (("STUDENT", student), ("TEACHER", other))
    }
    sides["TEACHER"] |= {"CONFIG_FILE": teacher_file, "WEIGHTS": str(weights)}
    blocks = {
        loss: {
            "TAP": tap_of(loss, student),
            "WEIGHT": 1e-4,
            **OPTIONS.get(loss, {}),
            **OPTIONS_OF.get((name, loss), {}),
        }
        for loss in losses
    }
    return _written(folder, data, student, {"KD": {**sides, "LOSSES": blocks}}, changes)


def lazy_config(folder: Path, data: Path, name: str, *changes: dict) -> str:
    """As ``d2_tiny.write_config``, for the student of ``lazy/NAME.py``."""
    path = Path(write_config(folder, data, _lazy(name), *changes, detector={}))
    content = yaml.safe_load(path.read_text())
    content["MODEL"] = _beside_lazy(content["MODEL"])
    path.write_text(yaml.safe_dump(content))
    return str(path)


def _beside_lazy(model: dict) -> dict:
    return {key: value for key, value in model.items() if key in _BESIDE_LAZY}


def _written(folder: Path, data: Path, family: Family, *changes: dict, name: str = "student") -> str:
    entry = {side.upper(): str(data / "pixels" / side) for side in ("images", "labels")} | {"CLASSES": CLASSES}
    sets = {"TRAIN": [family.data], "TEST": [family.test or family.data], "CUSTOM": {PIXELS: entry}}
    content = COMMON
    for part in (family.config, {"DATASETS": sets, "OUTPUT_DIR": str(folder / "out")}, *changes):
        content = merged(content, part)
    if "LAZY_CONFIG" in content["MODEL"]:
        content["MODEL"] = _beside_lazy(content["MODEL"])
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)
