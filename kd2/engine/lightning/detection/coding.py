"""What the dense heads of torchvision's detectors predict relative to: anchors, or points."""

import math

import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from kd2.distill import AnchorGrid, BoxCoder, eval_mode, match_levels
from kd2.engine.lightning.detection.anchors import Detectron2Anchors, Size, spacing
from kd2.engine.lightning.detection.models import dense_head

# The side of a blank image: a multiple of every stride up to P7.
BLANK = 256


class DenseAnchors:
    """The anchors of a detector's own generator, copied to the host once: reading them from a device would wait for it.

    Attributes:
        bases: per level the (K, 4) anchors of cell (0, 0); for FCOS the square around its point, of the stride's side.
        strides: of the backbone's maps.
    """

    def __init__(self, model: nn.Module):
        with eval_mode(model):
            maps = model.backbone(torch.zeros(1, 3, BLANK, BLANK)).values()
        self.strides = [BLANK // x.shape[2] for x in maps]
        self.generator = dense_head(model).anchor_generator
        self.bases = [base.detach().cpu() for base in self.generator.cell_anchors]

    def equal(self, other: "DenseAnchors") -> bool:
        """Whether another model has the same anchors in the same order."""
        kinds = isinstance(self.generator, Detectron2Anchors), isinstance(other.generator, Detectron2Anchors)
        if self.strides != other.strides or len(self.bases) != len(other.bases) or len(set(kinds)) > 1:
            return False
        pairs = zip(self.bases, other.bases, strict=True)
        return all(a.shape == b.shape and torch.allclose(a, b) for a, b in pairs)

    def grids(self, padded: Size, wanted: list[Size]) -> list[AnchorGrid]:
        """The grids of the levels whose maps have the ``wanted`` (H, W), in a batch of ``padded`` (H, W) pixels."""
        available = [(math.ceil(padded[0] / stride), math.ceil(padded[1] / stride)) for stride in self.strides]
        return [
            AnchorGrid(self.bases[i], spacing(self.generator, i, padded, available[i]), available[i])
            for i in match_levels(wanted, available)
        ]


def box_coders(anchors: DenseAnchors, student: nn.Module, teacher: nn.Module) -> tuple[BoxCoder, BoxCoder, int] | None:
    """How the dense heads of both sides encode boxes, and the scores that an anchor of the student's has; None where
    the teacher has other anchors.
    """
    grid = isinstance(getattr(dense_head(teacher), "anchor_generator", None), AnchorGenerator)
    if not (grid and anchors.equal(DenseAnchors(teacher))):
        return None
    scores = 1 if isinstance(student, FasterRCNN) else student.head.classification_head.num_classes
    return _coder(student), _coder(teacher), scores


def _coder(model: nn.Module) -> BoxCoder:
    if isinstance(model, FCOS):
        return BoxCoder("distances")
    return BoxCoder("deltas", tuple(dense_head(model).box_coder.weights))
