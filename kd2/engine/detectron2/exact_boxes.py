"""Boxes of Detectron2's models in float32, whatever precision their heads compute in."""

import torch
from detectron2.layers import ROIAlign, ROIAlignRotated
from detectron2.modeling.box_regression import Box2BoxTransformLinear, Box2BoxTransformRotated
from torch import Tensor, nn


class _ExactDistances(Box2BoxTransformLinear):
    """FCOS's decoding of boxes in float32, as ``Box2BoxTransform`` does it."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes, see Detectron2's class."""
        return super().apply_deltas(_at_least_float32(deltas), boxes)


class _ExactRotated(Box2BoxTransformRotated):
    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes, see Detectron2's class."""
        return super().apply_deltas(_at_least_float32(deltas), boxes)


class _ExactAlign(ROIAlign):
    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """What regions (B, 5) show of maps (N, C, H, W), in the precision of the maps."""
        if input.dtype not in _HALF:
            return super().forward(input, rois)
        return super().forward(input.float(), rois.float()).to(input.dtype)


class _ExactAlignRotated(ROIAlignRotated):
    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """As ``_ExactAlign.forward``, of regions (B, 6)."""
        return super().forward(_at_least_float32(input), _at_least_float32(rois)).to(input.dtype)


_HALF = (torch.float16, torch.bfloat16)
_EXACT: dict[type, type] = {
    Box2BoxTransformLinear: _ExactDistances,
    Box2BoxTransformRotated: _ExactRotated,
    ROIAlign: _ExactAlign,
    ROIAlignRotated: _ExactAlignRotated,
}


def boxes_in_float32(model: nn.Module) -> nn.Module:
    """Let a model decode boxes and pool regions by boxes in float32, whatever its maps are; returns ``model``.

    Detectron2 rounds proposals to the precision of the maps that they are cut from: bfloat16 is 4 pixels coarse at 900.
    FCOS's boxes are decoded in the numbers of its head, and its GIoU loss compares them with labels in float32, which a
    tensor of bfloat16 or float16 does not take. A model in float32 computes the same as before, and no name of its
    state dict changes.
    """
    for module in model.modules():
        for part in (module, getattr(module, "box2box_transform", None)):
            if type(part) in _EXACT:
                part.__class__ = _EXACT[type(part)]
    return model


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
