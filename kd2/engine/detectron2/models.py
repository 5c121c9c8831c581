"""Plain Detectron2 models for the two roles: their building, classes, losses and probe."""

from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet
from torch import nn

from kd2.config import train_size
from kd2.distill import ConfigError, Probe, nearest
from kd2.engine.detectron2 import lazy
from kd2.engine.detectron2.batch_info import padded_size, square_of
from kd2.engine.detectron2.exact_boxes import boxes_in_float32

# Where Detectron2's metadata have the names of what ``class_keys`` counts.
METADATA = {"things": "thing_classes", "stuff": "stuff_classes"}

# Class of a module -> names of the losses that it gives. By name: importing Detectron2's projects registers parts.
_LOSSES = {
    "RetinaNet": ["loss_cls", "loss_box_reg"],
    "FCOS": ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"],
    "RPN": ["loss_rpn_cls", "loss_rpn_loc"],
    "FastRCNNOutputLayers": ["loss_cls", "loss_box_reg"],
    "BaseMaskRCNNHead": ["loss_mask"],
    "BaseKeypointRCNNHead": ["loss_keypoint"],
    "PointRendMaskHead": ["loss_mask", "loss_mask_point"],
    "PointRendSemSegHead": ["loss_sem_seg_point"],
    "PanopticDeepLabInsEmbedHead": ["loss_center", "loss_offset"],
}


def build_plain(cfg: CfgNode, key: str) -> nn.Module:
    """The model of ``MODEL.META_ARCHITECTURE`` or ``LAZY_CONFIG`` on ``MODEL.DEVICE``, as plain Detectron2 builds it.

    Its boxes are in float32 in mixed precision too.

    Raises:
        ConfigError: no such architecture; names ``key``. See ``lazy.build_model``.
    """
    if cfg.MODEL.LAZY_CONFIG:
        model = lazy.build_model(cfg)
    else:
        name = cfg.MODEL.META_ARCHITECTURE
        choices = [known for known, _ in META_ARCH_REGISTRY if known != "Distiller"]
        if name not in choices:
            raise ConfigError(f"{key} is {name!r}; {nearest(name, choices)}")
        model = META_ARCH_REGISTRY.get(name)(cfg)
    return boxes_in_float32(model).to(torch.device(cfg.MODEL.DEVICE))


def blank_probe(model: nn.Module, size: tuple[int, int]) -> Probe:
    """A forward pass on one blank image of ``size`` (H, W), padded to a multiple of every stride of ``model``, or of
    the one size that it takes."""
    square = square_of(model.backbone)
    height, width = padded_size([(square, square) if square else size], model)
    image = torch.zeros(len(model.pixel_mean), height, width, dtype=torch.uint8)
    return Probe(lambda: model([{"image": image, "height": height, "width": width}]), (height, width))


def probe_size(cfg: CfgNode) -> tuple[int, int]:
    """(H, W) of the images that training crops, which some heads insist on; otherwise any that suits all strides."""
    return train_size(cfg) or (256, 256)


def class_keys(model: nn.Module, cfg: CfgNode) -> dict[str, tuple[str, int]]:
    """Config key and class count of the heads that ``model`` has: for ``things`` (boxes) and ``stuff`` (pixels)."""
    if cfg.MODEL.LAZY_CONFIG:
        return lazy.class_counts(cfg)
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
            classes = MetadataCatalog.get(name).get(METADATA[kind])
            if classes is not None and len(classes) != count:
                found = f"{len(classes)} classes ({', '.join(classes[:9])})"
                raise ConfigError(f"{key} is {count}, data set {name!r} has {found}")


def check_square(cfg: CfgNode, model: nn.Module, student: nn.Module | None = None, node: str = "KD.TEACHER") -> None:
    """Refuse images larger than the square to which ``model`` pads, and a teacher that pads less than its student.

    Args:
        cfg: of the run.
        student: of which ``model`` is the teacher, with the name ``node`` from ``kd2.config.teacher_blocks``.

    Raises:
        ConfigError: the largest side of ``INPUT`` is beyond the square; the student pads to a square, the teacher to
            another or none.
    """
    square, wanted = square_of(model.backbone), square_of(student.backbone) if student else 0
    if wanted and square != wanted:
        raise ConfigError(
            f"the student pads its images to {wanted} x {wanted} pixels, the teacher of {node}.CONFIG_FILE to "
            f"{f'{square} x {square}' if square else 'what they need'}; expected the same"
        )
    for split in ("TRAIN",) if student else ("TRAIN", "TEST"):
        largest = cfg.INPUT[f"MAX_SIZE_{split}"]
        if square and largest > square and lazy.mapper_options(cfg, split.lower()) is None:
            raise ConfigError(
                f"INPUT.MAX_SIZE_{split} is {largest}, the {'teacher' if student else 'student'} pads its images to "
                f"{square} x {square} pixels; expected {square} at most"
            )


def own_losses(model: nn.Module) -> set[str]:
    """Names of the losses that a model gives in training, as far as Detectron2's or kd2's parts tell."""
    found = set()
    for module in model.modules():
        for kind in type(module).__mro__:
            found.update(_LOSSES.get(kind.__name__, ()))
    stages = getattr(getattr(model, "roi_heads", None), "num_cascade_stages", 0)
    if stages:
        boxes = _LOSSES["FastRCNNOutputLayers"]
        found = found.difference(boxes) | {f"{name}_stage{i}" for name in boxes for i in range(stages)}
    if hasattr(model, "sem_seg_head"):
        found.add("loss_sem_seg")
    if getattr(getattr(model, "sem_seg_head", None), "auxiliary", None) is not None:
        found.add("loss_sem_seg_aux")
    return found
