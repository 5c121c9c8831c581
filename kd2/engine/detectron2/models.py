"""Plain Detectron2 models for the two roles, and their class counts."""

from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.modeling.meta_arch import RetinaNet
from torch import nn

from kd2.engine.detectron2.batch_info import padded_size
from kd2.distill import ConfigError, Taps, nearest, probed


# Where the backbone without its feature pyramid lies in a model's key names.
BODY = "backbone.bottom_up."
# Where Detectron2's metadata have the names of what ``class_keys`` counts.
_CLASSES = {"things": "thing_classes", "stuff": "stuff_classes"}


def build_student(cfg: CfgNode) -> nn.Module:
    """The model of ``KD.STUDENT.META_ARCHITECTURE`` on ``MODEL.DEVICE``, exactly as plain Detectron2 builds it."""
    return build_plain(cfg, cfg.KD.STUDENT.META_ARCHITECTURE, "KD.STUDENT.META_ARCHITECTURE")


def build_plain(cfg: CfgNode, name: str, key: str) -> nn.Module:
    """The model of ``cfg`` with meta-architecture ``name``; raises ConfigError naming ``key`` for an unknown one."""
    choices = [known for known, _ in META_ARCH_REGISTRY if known != "Distiller"]
    if name not in choices:
        raise ConfigError(f"{key} is {name!r}; {nearest(name, choices)}")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    return build_model(cfg)


def probed_taps(model: nn.Module, cfg: CfgNode, taps: Iterable[str], key: str, size: tuple[int, int]) -> Taps:
    """Taps of ``model``, probed on a blank image of ``size`` (H, W), padded to a multiple of every stride."""
    height, width = padded_size([size], model.backbone)
    image = torch.zeros(len(cfg.MODEL.PIXEL_MEAN), height, width, dtype=torch.uint8)
    batch = [{"image": image, "height": height, "width": width}]
    return probed(model, list(taps), lambda: model(batch), (height, width), key)


def probe_size(cfg: CfgNode) -> tuple[int, int]:
    """(H, W) of the images that training crops, which some heads insist on; otherwise any that suits all strides."""
    crop = cfg.INPUT.CROP
    return tuple(crop.SIZE) if crop.ENABLED and crop.TYPE == "absolute" else (256, 256)


def class_keys(model: nn.Module, cfg: CfgNode) -> dict[str, tuple[str, int]]:
    """Config key and class count of the heads that ``model`` has: for ``things`` (boxes) and ``stuff`` (pixels)."""
    found = {}
    if isinstance(model, RetinaNet):
        found["things"] = ("MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET.NUM_CLASSES)
    if hasattr(model, "roi_heads"):
        found["things"] = ("MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    if hasattr(model, "sem_seg_head"):
        found["stuff"] = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    return found


def check_data_classes(student: nn.Module, cfg: CfgNode, names: Iterable[str]) -> None:
    """Raises ConfigError when a data set has another number of classes, of boxes or of pixels, than the student."""
    for kind, (key, count) in class_keys(student, cfg).items():
        for name in names:
            classes = MetadataCatalog.get(name).get(_CLASSES[kind])
            if classes is not None and len(classes) != count:
                found = f"{len(classes)} classes ({', '.join(classes[:9])})"
                raise ConfigError(f"{key} is {count}, data set {name!r} has {found}")
