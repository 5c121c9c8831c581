"""Boxes from the numbers of detection heads, and back, and how well two boxes agree.

Boxes are (..., 4): x1, y1, x2, y2, in any unit and shape; the last axis may have any stride.
"""

import math

import torch
from torch import Tensor

from kd2.distill import BoxCoder

# Detectron2's and torchvision's limit of dw and dh: no box grows beyond 1000 / 16 times its anchor.
_MOST = math.log(1000 / 16)


def decode(coder: BoxCoder, numbers: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) that a head's ``numbers`` (..., 4) say, relative to ``anchors`` (..., 4) that broadcast.

    Deltas beyond the limit of width and height, and negative distances, have no gradient.
    """
    axes = (_decoded(coder, numbers[..., axis::2], anchors[..., axis::2], axis) for axis in (0, 1))
    (x1, x2), (y1, y2) = axes
    return torch.stack([x1, y1, x2, y2], -1)


def _decoded(coder: BoxCoder, numbers: Tensor, sides: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Low and high end of a box on one axis, from two of its numbers and the two ``sides`` of its anchor."""
    center, size = sides.mean(-1), sides[..., 1] - sides[..., 0]
    if coder.kind == "distances":
        return center - numbers[..., 0].relu() * size, center + numbers[..., 1].relu() * size
    middle = center + numbers[..., 0] / coder.weights[axis] * size
    half = (numbers[..., 1] / coder.weights[axis + 2]).clamp(max=_MOST).exp() * size / 2
    return middle - half, middle + half


def encode_deltas(boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Deltas (..., 4) of ``boxes`` relative to ``anchors``, times the ``weights``."""
    sizes = [x[..., 2:] - x[..., :2] for x in (boxes, anchors)]
    centers = [(x[..., 2:] + x[..., :2]) / 2 for x in (boxes, anchors)]
    shift = (centers[0] - centers[1]) / sizes[1]
    return scaled(torch.cat([shift, (sizes[0] / sizes[1]).log()], -1), weights)


def scaled(numbers: Tensor, factors: tuple[float, float, float, float]) -> Tensor:
    """The four numbers (..., 4) of boxes, each times its factor."""
    columns = zip(numbers.unbind(-1), factors, strict=True)
    return torch.stack([column * factor for column, factor in columns], -1)


def generalized_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """``I / U - (E - U) / E`` (...) of boxes (..., 4): intersection, union, and the area of what encloses both.

    ``U`` and ``E`` are cut below at ``eps``: two boxes without area in one place have 0, without gradient.
    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019 (arXiv 1902.09630), algorithm 1.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = _product((high - low).clamp(min=0))
    areas = [_product(x[..., 2:] - x[..., :2]) for x in (a, b)]
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    union, enclosed = (areas[0] + areas[1] - overlap).clamp(min=eps), _product(hull).clamp(min=eps)
    return overlap / union - (enclosed - union) / enclosed


def _product(sides: Tensor) -> Tensor:
    """Width times height; the gradient of ``prod`` would wait for the device."""
    return sides[..., 0] * sides[..., 1]
