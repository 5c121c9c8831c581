"""Fine-grained feature imitation (FGFI): imitate the teacher where objects are.

Source: Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019 (arXiv 1906.03609).
Letters: N images, L levels, Cs and Ct channels of student and teacher, P masked cells of one level and the whole batch.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import AnchorGrid, ConfigError, FeatureSpec, BatchInfo
from kd2.ops.gather import at_cells, chosen, conv_at_cells
from kd2.ops.masks import LevelRule, anchor_masks, box_masks, inside_image
from kd2.ops.squared_distance import squared_distance

Normalizer = Literal["level", "pooled"]


def imitation_loss(
    student: list[Tensor], teacher: list[Tensor], masks: list[Tensor], normalizer: Normalizer = "level"
) -> Tensor:
    """``sum_l S_l / (2 max(P_l, 1))`` with ``S_l`` the squared differences summed over channels and masked cells (eq. 4).

    Args:
        student, teacher: L maps (N, Ct, H, W), the student's already adapted.
        masks: L boolean masks (N, H, W); on the host the loss does not synchronize.
        normalizer: ``level`` as above; ``pooled`` divides all ``S_l`` by ``2 max(sum_l P_l, 1)``.

    Returns:
        A scalar in at least float32; an exact zero that keeps the graph when no cell is masked.
    """
    cells = [chosen(mask, s.device) for mask, s in zip(masks, student)]
    sums = [squared_distance(at_cells(s, c), at_cells(t, c)) for s, t, c in zip(student, teacher, cells)]
    return normalized(sums, cells, normalizer)


def normalized(sums: list[Tensor], cells: list[Tensor], normalizer: Normalizer) -> Tensor:
    """Combine the levels' sums of squares as ``imitation_loss`` says."""
    counts = [len(c) for c in cells]
    if normalizer == "pooled":
        return sum(sums) / (2 * max(sum(counts), 1))
    return sum(s / (2 * max(count, 1)) for s, count in zip(sums, counts))


class Adapter(nn.Module):
    """3x3 convolution Cs -> Ct, with ReLU when the teacher's map is behind one, evaluated at the masked cells only.

    A student map exactly twice as large as the teacher's is met with stride 2; any other size is interpolated first.
    """

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec, relu: bool):
        super().__init__()
        halves = tuple(a == 2 * b for a, b in zip(student.size, teacher.size))
        self.conv = nn.Conv2d(student.channels, teacher.channels, 3, stride=2 if all(halves) else 1, padding=1)
        nn.init.trunc_normal_(self.conv.weight, std=1e-4, a=-2e-4, b=2e-4)
        self.relu = relu

    def forward(self, x: Tensor, size: tuple[int, int], cells: Tensor) -> Tensor:
        """Adapted student columns (P, Ct) at ``cells`` (P,) of a map (N, Cs, H, W) compared at the teacher's ``size``."""
        if self.conv.stride == (2, 2):
            y = at_cells(self.conv(x), cells)
        else:
            y = conv_at_cells(_resized(x, size), self.conv, cells)
        return F.relu(y) if self.relu else y


class Imitation(nn.Module):
    """The imitation loss: masks from the batch's boxes, an adapter a level, the loss on masked cells.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        mode: ``anchors`` (the paper's I), ``full`` (F: every cell), ``gt_box`` (G: inside the boxes).
        psi: threshold factor of mode ``anchors``, in [0, 1].
        level_rule: ``joint`` or ``per_level``, see ``anchor_masks``.
        normalizer: ``level`` or ``pooled``, see ``imitation_loss``.
        adapter: whether to adapt the student; without it channels and sizes must agree.
        relu: ReLU behind the adapter; true only when the teacher's tap is itself behind a ReLU (not for an FPN).
        anchors: ``student`` reads the student's own anchors; ``retinanet`` puts the usual nine a cell on every level, for
            students without anchors.
        plus_one: inclusive pixel coordinates as in the authors' code, for parity only.
        clip_to_image: leave cells over batch padding out.

    Raises:
        ConfigError: psi outside [0, 1]; no adapter and different shapes.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        mode: Literal["anchors", "full", "gt_box"] = "anchors",
        psi: float = 0.5,
        level_rule: LevelRule = "joint",
        normalizer: Normalizer = "level",
        adapter: bool = True,
        relu: bool = False,
        anchors: Literal["student", "retinanet"] = "student",
        plus_one: bool = False,
        clip_to_image: bool = False,
    ):
        super().__init__()
        if not 0 <= psi <= 1:
            raise ConfigError(f"PSI is {psi}, expected a number in [0, 1]")
        if not adapter:
            _same_shapes(student, teacher)
        self.mode, self.psi, self.level_rule, self.normalizer = mode, psi, level_rule, normalizer
        self.anchors, self.plus_one, self.clip_to_image = anchors, plus_one, clip_to_image
        self.strides = [t.stride for t in teacher]
        self.adapters = nn.ModuleList(Adapter(s, t, relu) for s, t in zip(student, teacher)) if adapter else None

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W)."""
        sizes = [(t.shape[2], t.shape[3]) for t in teacher]
        cells = [chosen(mask, t.device) for mask, t in zip(self.masks(sizes, batch_info), teacher)]
        adapters = self.adapters or [_direct] * len(cells)
        sums = [
            squared_distance(adapt(s, size, c), at_cells(t, c))
            for adapt, s, t, size, c in zip(adapters, student, teacher, sizes, cells)
        ]
        return normalized(sums, cells, self.normalizer)

    def masks(self, sizes: list[tuple[int, int]], batch_info: BatchInfo) -> list[Tensor]:
        """L boolean masks (N, H, W) for maps of these sizes."""
        images = len(batch_info.image_sizes)
        if self.mode == "full":
            masks = [torch.ones(images, *size, dtype=torch.bool) for size in sizes]
        elif self.mode == "gt_box":
            masks = box_masks(batch_info.boxes, sizes, self.strides)
        else:
            grids = self._grids(sizes, batch_info)
            masks = anchor_masks(batch_info.boxes, grids, self.psi, self.level_rule, self.plus_one)
        if self.clip_to_image:
            real = [inside_image(size, stride, batch_info.image_sizes) for size, stride in zip(sizes, self.strides)]
            masks = [mask & r.to(mask.device) for mask, r in zip(masks, real)]
        return masks

    def _grids(self, sizes: list[tuple[int, int]], batch_info: BatchInfo) -> list[AnchorGrid]:
        if self.anchors == "retinanet":
            return [AnchorGrid(retinanet_shapes(stride[1]), stride, size) for size, stride in zip(sizes, self.strides)]
        if batch_info.anchors is None:
            raise ConfigError("ANCHORS is 'student', but this student has no anchors; use ANCHORS: retinanet or MODE: gt_box")
        return batch_info.anchors(sizes)


def retinanet_shapes(stride: float) -> Tensor:
    """RetinaNet's nine anchors of a cell at (0, 0), (9, 4): sides ``4 stride 2^(k/3)``, ratios 1:2, 1:1, 2:1."""
    side = 4 * stride * 2 ** (torch.arange(3) / 3)
    root = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    width, height = (side[:, None] / root).flatten(), (side[:, None] * root).flatten()
    return torch.stack([-width, -height, width, height], 1) / 2


def _same_shapes(student: list[FeatureSpec], teacher: list[FeatureSpec]) -> None:
    for level, (s, t) in enumerate(zip(student, teacher)):
        if (s.channels, s.size) != (t.channels, t.size):
            raise ConfigError(
                f"ADAPTER is False, but level {level} is {s.channels} x {s.size} in the student and "
                f"{t.channels} x {t.size} in the teacher"
            )


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _direct(x: Tensor, size: tuple[int, int], cells: Tensor) -> Tensor:
    return at_cells(_resized(x, size), cells)


TERM = Imitation
