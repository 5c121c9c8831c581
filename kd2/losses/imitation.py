"""Fine-grained feature imitation (FGFI): imitate the teacher where objects are.

Source: Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019 (arXiv 1906.03609).
Letters: N images, M boxes of an image, L levels, K anchors a cell, Cs and Ct channels of student and teacher, H x W
map, P masked cells of one level and the whole batch.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import AnchorGrid, BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import Share
from kd2.losses.registry import register_loss
from kd2.ops.gather import at_cells, chosen, conv_at_cells
from kd2.ops.masks import LevelRule, anchor_masks, box_masks, inside_image
from kd2.ops.precision import wide
from kd2.ops.reduction import added
from kd2.ops.squared_distance import squared_distance

Reduction = Literal["level_mean", "pooled_mean"]
Size = tuple[int, int]
# From a student map, the size to compare it at and chosen cells to adapted columns (P, Ct).
Columns = Callable[[Tensor, Size, Tensor], Tensor]


def imitation_mask(boxes: Tensor, anchors: list[Tensor], psi: float = 0.5) -> list[Tensor]:
    """Cells of one image near its objects: some anchor's IoU with a box is above ``psi`` times the best IoU of that box
    with any anchor (section 3.2, eq. 1-3).

    Args:
        boxes: (M, 4), x1 y1 x2 y2 in pixels; M is at least 1.
        anchors: L levels (H, W, K, 4) in the same frame.
        psi: in [0, 1]; the comparison is strict.

    Returns:
        L boolean masks (H, W).
    """
    ious = [pairwise_iou(boxes[:, None, None, None], level) for level in anchors]
    best = torch.stack([iou.amax((1, 2, 3)) for iou in ious]).amax(0)
    return [(iou > psi * best[:, None, None, None]).any(3).any(0) for iou in ious]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that broadcast."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap)


def imitation_loss(
    student: list[Tensor], teacher: list[Tensor], masks: list[Tensor], reduction: Reduction = "level_mean"
) -> Tensor:
    """``sum_l S_l / (2 max(P_l, 1))``, where ``S_l`` sums squared differences over channels and masked cells (eq. 4).

    Args:
        student, teacher: L maps (N, Ct, H, W), the student's already adapted.
        masks: L boolean masks (N, H, W).
        reduction: ``level_mean`` as above; ``pooled_mean`` divides all ``S_l`` by ``2 max(sum_l P_l, 1)``.

    Returns:
        A scalar in at least float32; an exact zero that keeps the graph when no cell is masked.
    """
    sums = []
    for s, t, mask in zip(student, teacher, masks, strict=True):
        dtype = wide(s, t)
        differences = (s.to(dtype) - t.to(dtype)).movedim(1, 3)[mask]
        sums.append(differences.square().sum())
    return normalized(sums, [int(mask.sum()) for mask in masks], reduction)


def normalized(sums: list[Tensor], counts: list[int], reduction: Reduction) -> Tensor:
    """Combine the levels' sums of squares and their P as ``imitation_loss`` says."""
    if reduction == "pooled_mean":
        return added(sums) / (2 * max(sum(counts), 1))
    return added(s / (2 * max(count, 1)) for s, count in zip(sums, counts, strict=True))


class Adapter(nn.Module):
    """3x3 convolution Cs -> Ct, with ReLU when the teacher's map is behind one, evaluated at the masked cells only.

    A student map exactly twice as large as the teacher's is met with stride 2; any other size is interpolated first.
    """

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec, relu: bool):
        super().__init__()
        halves = tuple(a == 2 * b for a, b in zip(student.size, teacher.size, strict=True))
        self.conv = nn.Conv2d(student.channels, teacher.channels, 3, stride=2 if all(halves) else 1, padding=1)
        nn.init.trunc_normal_(self.conv.weight, std=1e-4, a=-2e-4, b=2e-4)
        self.relu = relu

    def forward(self, x: Tensor, size: Size, cells: Tensor) -> Tensor:
        """Adapted columns (P, Ct) at ``cells`` (P,) of a map (N, Cs, H, W), compared at the teacher's ``size``."""
        if self.conv.stride == (2, 2):
            y = at_cells(self.conv(x), cells)
        else:
            y = conv_at_cells(_resized(x, size), self.conv, cells)
        return F.relu(y) if self.relu else y


@register_loss("imitation")
class Imitation(nn.Module):
    """The imitation loss: masks from the batch's boxes, an adapter a level, the loss on masked cells.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        mode: ``anchors`` (the paper's I), ``full`` (F: every cell), ``gt_box`` (G: inside the boxes).
        psi: threshold factor of mode ``anchors``.
        level_rule: ``joint`` or ``per_level``, see ``anchor_masks``.
        reduction: ``level_mean`` or ``pooled_mean``, see ``imitation_loss``.
        adapter: ``conv3x3`` adapts the student; with ``none`` channels and sizes must agree.
        relu: ReLU behind the adapter; true only when the teacher's tap is itself behind a ReLU (not for an FPN).
        anchors: ``student`` reads the student's own anchors; ``retinanet`` puts the usual nine a cell on every level,
            for students without anchors.
        plus_one: inclusive pixel coordinates as in the authors' code, for parity only.
        clip_to_image: leave cells over batch padding out.

    Raises:
        ConfigError: no adapter and different shapes.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        mode: Literal["anchors", "full", "gt_box"] = "anchors",
        psi: Share = 0.5,
        level_rule: LevelRule = "joint",
        reduction: Reduction = "level_mean",
        adapter: Literal["none", "conv3x3"] = "conv3x3",
        relu: bool = False,
        anchors: Literal["student", "retinanet"] = "student",
        plus_one: bool = False,
        clip_to_image: bool = False,
    ):
        super().__init__()
        if adapter == "none":
            _check_same_shapes(student, teacher)
        self.mode, self.psi, self.level_rule, self.reduction = mode, psi, level_rule, reduction
        self.anchors, self.plus_one, self.clip_to_image = anchors, plus_one, clip_to_image
        self.strides = [t.stride for t in teacher]
        pairs = zip(student, teacher, strict=True)
        self.adapters = nn.ModuleList(Adapter(s, t, relu) for s, t in pairs) if adapter == "conv3x3" else None
        boxes = [] if mode == "full" else ["boxes"]
        anchored = mode == "anchors" and anchors == "student"
        self.needs = frozenset([*boxes, *["anchors"] * anchored, *["sizes"] * clip_to_image])

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W).

        Raises:
            ConfigError: ``anchors`` is ``student`` and the student has none on these maps.
        """
        sizes = [(t.shape[2], t.shape[3]) for t in teacher]
        masks = self.masks(sizes, len(teacher[0]), batch_info)
        cells = [chosen(mask, t.device) for mask, t in zip(masks, teacher, strict=True)]
        adapters: list[Columns] = [*self.adapters] if self.adapters is not None else [_direct] * len(cells)
        sums = [
            squared_distance(adapt(s, size, c), at_cells(t, c))
            for adapt, s, t, size, c in zip(adapters, student, teacher, sizes, cells, strict=True)
        ]
        return normalized(sums, [len(c) for c in cells], self.reduction)

    def shown(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, list[Tensor]]:
        """For pictures: ``mask``, 1 on the cells that are imitated, L maps (N, H, W)."""
        masks = self.masks([(t.shape[2], t.shape[3]) for t in teacher], len(teacher[0]), batch_info)
        return {"mask": [mask.float() for mask in masks]}

    def masks(self, sizes: list[Size], images: int, batch_info: BatchInfo) -> list[Tensor]:
        """L boolean masks (N, H, W) for maps of these sizes and N images."""
        if self.mode == "full":
            masks = [torch.ones(images, *size, dtype=torch.bool) for size in sizes]
        elif self.mode == "gt_box":
            masks = box_masks(batch_info.boxes, sizes, self.strides)
        else:
            grids = self._grids(sizes, batch_info)
            masks = anchor_masks(batch_info.boxes, grids, self.psi, self.level_rule, self.plus_one)
        if self.clip_to_image:
            real = [
                inside_image(size, stride, batch_info.image_sizes)
                for size, stride in zip(sizes, self.strides, strict=True)
            ]
            masks = [mask & r.to(mask.device) for mask, r in zip(masks, real, strict=True)]
        return masks

    def _grids(self, sizes: list[Size], batch_info: BatchInfo) -> list[AnchorGrid]:
        if self.anchors == "retinanet":
            levels = zip(sizes, self.strides, strict=True)
            return [AnchorGrid(retinanet_shapes(stride[1]), stride, size) for size, stride in levels]
        if batch_info.anchors is None:
            raise ConfigError(
                "ANCHORS is 'student', but this student has no anchors; use ANCHORS: retinanet or MODE: gt_box"
            )
        return batch_info.anchors(sizes)


def retinanet_shapes(stride: float) -> Tensor:
    """RetinaNet's nine anchors of a cell at (0, 0), (9, 4): sides ``4 stride 2^(k/3)``, ratios 1:2, 1:1, 2:1."""
    side = 4 * stride * 2 ** (torch.arange(3) / 3)
    root = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    width, height = (side[:, None] / root).flatten(), (side[:, None] * root).flatten()
    return torch.stack([-width, -height, width, height], 1) / 2


def _check_same_shapes(student: list[FeatureSpec], teacher: list[FeatureSpec]) -> None:
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if (s.channels, s.size) != (t.channels, t.size):
            raise ConfigError(
                f"ADAPTER is none, but level {level} is {s.channels} x {s.size} in the student and "
                f"{t.channels} x {t.size} in the teacher"
            )


def _resized(x: Tensor, size: Size) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _direct(x: Tensor, size: Size, cells: Tensor) -> Tensor:
    return at_cells(_resized(x, size), cells)
