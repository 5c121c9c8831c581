"""Distillation of torchvision's detectors."""

import math

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import NoResize, anchor_generator, build_detector, first_label, num_classes
from kd2.engine.lightning.pair import Guide, Kind, build_pair
from kd2.distill import AnchorGrid, Distiller, BatchInfo, Taps, match_levels, probed, eval_mode

# The side of the probe's blank image: a multiple of every stride up to P7.
_BLANK = 256


class TorchvisionDistiller(Distiller):
    """A torchvision detector with its teacher. Batches are ``kd2.engine.lightning.detection.data.Batch``."""

    def __init__(self, student: nn.Module, guide: Guide | None = None, **parts):
        super().__init__(student, guide.model if guide else None, **parts)
        self.flip_for_teacher = guide is not None and guide.flip
        self.first_label = first_label(student)
        generator = anchor_generator(student)
        # On the host once: reading them from a device in every step would wait for it.
        self.base_anchors = [base.detach().cpu() for base in generator.cell_anchors] if generator else None
        self.strides = _strides(student)

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """torchvision's own losses, with names that begin with ``loss_``."""
        targets = [t | {"labels": t["labels"] + self.first_label} for t in batch.targets]
        losses = self.student(_unit(batch.images), targets)
        return {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in losses.items()}

    def teacher_forward(self, batch: Batch) -> None:
        """The same pixels; the teacher normalizes them its own way."""
        images = [x.flip(0) for x in batch.images] if self.flip_for_teacher else batch.images
        self.teacher.model(_unit(images))

    def batch_info(self, batch: Batch) -> BatchInfo:
        """Boxes on the host; anchors of the student's own generator."""
        sizes = [(x.shape[1], x.shape[2]) for x in batch.images]
        step = self.student.transform.size_divisible
        padded = tuple(math.ceil(max(side) / step) * step for side in zip(*sizes))

        def anchors(wanted: list[tuple[int, int]]) -> list[AnchorGrid]:
            available = [tuple(math.ceil(side / stride) for side in padded) for stride in self.strides]
            # torchvision spaces anchors by the padded size over the cells, rounded down.
            return [
                AnchorGrid(self.base_anchors[i], (padded[0] // available[i][0], padded[1] // available[i][1]), available[i])
                for i in match_levels(wanted, available)
            ]

        return BatchInfo(sizes, padded, batch.boxes, anchors=anchors if self.base_anchors else None)


def build_student(cfg: CfgNode) -> nn.Module:
    """The student with its initial weights drawn from ``SEED``."""
    torch.manual_seed(cfg.SEED)
    return build_detector(cfg)


def build_distiller(cfg: CfgNode) -> TorchvisionDistiller:
    """The student with its teacher and losses, see ``build_pair``."""
    return build_pair(cfg, build_student(cfg), Kind(num_classes, _teacher, _probed, TorchvisionDistiller))


def _teacher(cfg: CfgNode) -> nn.Module:
    model = build_detector(cfg)
    model.transform = NoResize(model.transform)
    return model


def _probed(model: nn.Module, taps: list[str], key: str) -> Taps:
    resize, model.transform = model.transform, NoResize(model.transform)
    blank = [torch.zeros(3, _BLANK, _BLANK)]
    try:
        return probed(model, taps, lambda: model(blank), (_BLANK, _BLANK), key)
    finally:
        model.transform = resize


def _strides(student: nn.Module) -> list[int]:
    with eval_mode(student):
        return [_BLANK // x.shape[2] for x in student.backbone(torch.zeros(1, 3, _BLANK, _BLANK)).values()]


def _unit(images: list[Tensor]) -> list[Tensor]:
    """uint8 pixels to [0, 1]."""
    return [x.float() / 255 for x in images]
