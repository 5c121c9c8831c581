"""Detectors of Detectron2's zoo as configs of FRAMEWORK torchvision."""

import re
from typing import Any

from kd2.distill import ConfigError, nearest
from kd2.zoo.detectron2 import named_like, names

# Configs of the zoo that say what the road of torchvision has; published sizes of training schedules do not matter.
_DETECTOR = re.compile(
    r"(?P<data>COCO-Detection|COCO-InstanceSegmentation|LVISv0.5-InstanceSegmentation|Cityscapes|Misc)/"
    r"(?P<family>retinanet|faster_rcnn|mask_rcnn|cascade_mask_rcnn)_(?P<body>R_50|R_101|X_101_32x8d)_FPN(_\dx)?\.yaml"
)
_CLASSES = {"LVISv0.5-InstanceSegmentation": 1230, "Cityscapes": 8}
# ResNets trained on ImageNet, by what their addresses end with.
_IMAGENET = {"MSRA/R-50.pkl": "R_50", "MSRA/R-101.pkl": "R_101", "FAIR/X-101-32x8d.pkl": "X_101_32x8d"}
_FAMILIES = {"retinanet": "RetinaNet", "faster_rcnn": "FasterRCNN"}
_RCNN_SIZES = [[32], [64], [128], [256], [512]]


def torchvision_names() -> list[str]:
    """The names of ``torchvision_config``."""
    return [name for name in names() if _DETECTOR.fullmatch(name)]


def torchvision_config(name: str, key: str) -> dict[str, Any]:
    """A detector of the zoo as a config of FRAMEWORK torchvision; of a Cascade R-CNN its FPN and its first stage.

    Raises:
        ConfigError: a model of the zoo that the road of torchvision does not have; names ``key``.
    """
    found = _DETECTOR.fullmatch(name)
    if not found or name not in torchvision_names():
        known = torchvision_names()
        raise ConfigError(
            f"{key}: FRAMEWORK torchvision reads RetinaNet, Faster, Mask and Cascade R-CNN with an FPN of Detectron2's "
            f"zoo, not {name!r}; {nearest(name, known)}"
        )
    architecture = _FAMILIES.get(found["family"], "MaskRCNN")
    model: dict[str, Any] = {"META_ARCHITECTURE": architecture, "CONVENTIONS": "detectron2", **_body(found["body"])}
    if architecture == "RetinaNet":
        model["FPN"] = {"P6_FROM": "C5"}
    else:
        model["ANCHOR_GENERATOR"] = {"SIZES": [list(sizes) for sizes in _RCNN_SIZES]}
        model["ROI_HEADS"] = {"NUM_CLASSES": _CLASSES.get(found["data"], 80)}
    return {"FRAMEWORK": "torchvision", "MODEL": model, "INPUT": {"FORMAT": "BGR"}}


def _body(name: str) -> dict[str, Any]:
    """Backbone and input: MSRA's ResNets, or X101 of FAIR, which has another deviation and its strides in the 3x3."""
    backbone: dict[str, Any] = {"NAME": "resnet50" if name == "R_50" else "resnet101", "NORM": "FrozenBN"}
    if name.startswith("X"):
        backbone["ARGS"], deviation = {"groups": 32, "width_per_group": 8}, [57.375, 57.12, 58.395]
    else:
        backbone["STRIDE_IN_1X1"], deviation = True, [1.0, 1.0, 1.0]
    return {"BACKBONE": backbone, "PIXEL_MEAN": [103.53, 116.28, 123.675], "PIXEL_STD": deviation}


def trained_with(weights: str) -> tuple[str, dict[str, Any]]:
    """What weights of the zoo are called, and the config of FRAMEWORK torchvision that they were trained with.

    Args:
        weights: see ``named_like``; or the ResNets trained on
            ImageNet that its detectors begin with.

    Returns:
        An empty name for other weights, and for models that ``torchvision_config`` does not have.
    """
    name, file = named_like(weights), weights.rpartition("/")[2]
    if name in torchvision_names():
        return name, torchvision_config(name, "")
    body = next((body for end, body in _IMAGENET.items() if weights.endswith(end)), "")
    return (file, {"FRAMEWORK": "torchvision", "MODEL": _body(body), "INPUT": {"FORMAT": "BGR"}}) if body else ("", {})
