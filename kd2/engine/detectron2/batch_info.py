"""What the losses may know of a Detectron2 batch.

Sizes, boxes and the student's own anchors stay on the host; pixel classes and images go to the student's device.
"""

import math
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.meta_arch import FCOS
from detectron2.structures import ImageList
from torch import Tensor, nn

from kd2.distill import IGNORE_LABEL, AnchorGrid, BoxCoder, ConfigError, match_levels

Size = tuple[int, int]
_NO_BOXES = torch.zeros(0, 4)


def gt_boxes(sample: dict[str, Any]) -> Tensor:
    """Boxes (M, 4) of one sample, x1 y1 x2 y2 in pixels of the resized image; M = 0 without instances.

    Of an image without labels, what the teacher found there.
    """
    return sample["instances"].gt_boxes.tensor if "instances" in sample else sample.get("pseudo_boxes", _NO_BOXES)


def square_of(backbone: Backbone) -> int:
    """Side in pixels of the square to which a backbone pads every image, such as ViTDet's; 0 where it does not."""
    return int(backbone.padding_constraints.get("square_size", 0))


def padded_size(sizes: list[Size], model: nn.Module) -> Size:
    """(H, W) of the batch that a model makes of images of these sizes.

    Raises:
        ConfigError: the backbone pads to a square, and an image is larger: Detectron2 would cut it.
    """
    backbone, square = model.backbone, square_of(model.backbone)
    step = max(_divisibility(model), 1)
    height, width = map(max, zip(*sizes))
    if square and max(height, width) > square:
        raise ConfigError(
            f"an image has {height} x {width} pixels, but a {type(backbone).__name__} of the run pads to {square} x "
            f"{square}: INPUT.MAX_SIZE_TRAIN and INPUT.MAX_SIZE_TEST are {square} at most"
        )
    if square:
        height = width = square
    return math.ceil(height / step) * step, math.ceil(width / step) * step


def _divisibility(model: nn.Module) -> int:
    """What divides the sides of a batch: as the model has it itself (Panoptic-DeepLab), otherwise its backbone."""
    own, backbone = getattr(model, "size_divisibility", 0), model.backbone
    return int(own if own > 0 else backbone.padding_constraints.get("size_divisibility", backbone.size_divisibility))


def pixel_labels(batch: list[dict[str, Any]], model: nn.Module) -> Tensor | None:
    """Classes (N, H, W) of the padded batch on the device of ``model``; 255 where there is none.

    None for samples without pixel classes, or a model without a segmentation head.
    """
    if "sem_seg" not in batch[0] or not hasattr(model, "sem_seg_head"):
        return None
    own = model.sem_seg_head.ignore_value
    maps = [sample["sem_seg"].to(model.device, non_blocking=True) for sample in batch]
    labels = _padded(maps, model, own)
    return labels if own == IGNORE_LABEL else labels.masked_fill(labels == own, IGNORE_LABEL)


def student_images(batch: list[dict[str, Any]], model: nn.Module) -> Tensor:
    """The batch as the first layer of ``model`` sees it: (N, 3, H, W), normalized, then padded with 0."""
    pixels = [sample["image"].to(model.device, non_blocking=True) for sample in batch]
    return _padded([(x - model.pixel_mean) / model.pixel_std for x in pixels], model, 0.0)


def _padded(tensors: list[Tensor], model: nn.Module, value: float) -> Tensor:
    square = {"square_size": square_of(model.backbone)}
    return ImageList.from_tensors(tensors, _divisibility(model), value, square).tensor


class DenseAnchors:
    """The anchors of a model's own generator, copied to the host once; for FCOS the squares around its points.

    Args:
        levels: per level the (K, 4) anchors of cell (0, 0), with the generator's offset, and its stride in pixels.
    """

    def __init__(self, levels: list[tuple[Tensor, int]]):
        self.levels = levels

    @classmethod
    def of(cls, model: nn.Module) -> "DenseAnchors | None":
        """Those of the model itself (RetinaNet, FCOS) or of its proposal generator; None where they are not
        axis-aligned."""
        generator = getattr(_dense_head(model), "anchor_generator", None)
        if not isinstance(generator, DefaultAnchorGenerator):
            return None
        pairs = zip(generator.cell_anchors, generator.strides)
        return cls([(base.detach().cpu() + generator.offset * stride, stride) for base, stride in pairs])

    def equal(self, other: "DenseAnchors | None") -> bool:
        """Whether another model has the same anchors in the same order."""
        if other is None or len(self.levels) != len(other.levels):
            return False
        pairs = zip(self.levels, other.levels, strict=True)
        return all(s == t and a.shape == b.shape and torch.allclose(a, b) for (a, s), (b, t) in pairs)

    def grids(self, padded: Size, wanted: list[Size]) -> list[AnchorGrid]:
        """The grids of the levels whose maps have the ``wanted`` (H, W), in a batch of ``padded`` (H, W) pixels.

        Raises:
            ConfigError: no level has such a map.
        """
        available = [(math.ceil(padded[0] / stride), math.ceil(padded[1] / stride)) for _, stride in self.levels]
        chosen = match_levels(wanted, available)
        return [AnchorGrid(self.levels[i][0], (self.levels[i][1],) * 2, available[i]) for i in chosen]


def has_points(model: nn.Module) -> bool:
    """Whether what a model's generator gives are no anchors but points, as FCOS's."""
    return isinstance(model, FCOS)


def box_coders(
    anchors: DenseAnchors | None, student: nn.Module, teacher: nn.Module
) -> tuple[BoxCoder, BoxCoder, int] | None:
    """How the dense heads of both sides encode boxes, and the scores that an anchor of the student's has; None without
    such heads, or where their anchors differ.

    Args:
        anchors: the student's.
    """
    own, other = _coder(student), _coder(teacher)
    if anchors is None or own is None or other is None or not anchors.equal(DenseAnchors.of(teacher)):
        return None
    head = _dense_head(student)
    return own, other, head.num_classes if head is student else 1


def _coder(model: nn.Module) -> BoxCoder | None:
    transform = getattr(_dense_head(model), "box2box_transform", None)
    if isinstance(transform, Box2BoxTransformLinear) and transform.normalize_by_size:
        return BoxCoder("distances")
    return BoxCoder("deltas", tuple(transform.weights)) if isinstance(transform, Box2BoxTransform) else None


def _dense_head(model: nn.Module) -> nn.Module | None:
    """What predicts at every anchor: a one-stage detector itself, or the proposal generator; None without either."""
    return model if hasattr(model, "anchor_generator") else getattr(model, "proposal_generator", None)
