"""Boxes of torchvision's detectors in float32, whatever precision their heads compute in.

torchvision decodes boxes in the numbers of the heads' outputs: bfloat16 is 4 pixels coarse at 900.
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

from kd2.engine.lightning.detection.anchors import ExactAnchors, ExactDefaultBoxes


class _ExactCoder(BoxCoder):
    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes from numbers relative to others; the methods of torchvision's class end here."""
        return super().decode_single(_at_least_float32(rel_codes), boxes)


class _ExactLinearCoder(BoxLinearCoder):
    def decode(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes from distances."""
        return super().decode(_at_least_float32(rel_codes), boxes)


_EXACT: dict[type, type] = {
    BoxCoder: _ExactCoder,
    BoxLinearCoder: _ExactLinearCoder,
    AnchorGenerator: ExactAnchors,
    DefaultBoxGenerator: ExactDefaultBoxes,
}


def boxes_in_float32(model: nn.Module) -> nn.Module:
    """Let a detector make anchors and decode boxes in float32, whatever its maps are; returns ``model``.

    Its proposals, what its heads are trained on, and its detections are in float32 then. A model in float32 computes
    the same as before, and no name of its state dict changes.
    """
    for module in model.modules():
        for part in (module, getattr(module, "box_coder", None)):
            if type(part) in _EXACT:
                part.__class__ = _EXACT[type(part)]
    return model


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
