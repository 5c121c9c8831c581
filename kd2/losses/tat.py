"""Target-aware transformer (TaT): every student position, mixed from all of them, imitates one position of the teacher.

Source: Lin et al., "Knowledge Distillation via the Target-aware Transformer", CVPR 2022 (arXiv 2205.10793), section 3.
Letters: B images, L levels, Cs and C channels of student and teacher, H x W map, P positions of a patch.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import Cells, Count, NonNegative, OptionalCells
from kd2.losses.registry import register_loss
from kd2.losses.tat_projection import Projection, Statistics
from kd2.ops.matching import matching_distance
from kd2.ops.resize import Resize, check_sizes, same_size

Size = tuple[int, int]


def target_aware_distance(query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """``sum (softmax(Q K^T) V - T)^2``: every position mixes all values and is compared with its target (eq. 3-5).

    The similarities are neither scaled nor normalized. Divided by the number of elements it is the loss.

    Args:
        query, key, value, target: (B, P, d), positions as rows.
    """
    return ((query @ key.mT).softmax(-1) @ value - target).square().sum()


class Projections(nn.Module):
    """One level's projections: query and value of the student, key of the teacher (the identity, or learned)."""

    def __init__(self, student: FeatureSpec, teacher: FeatureSpec, kernel: int, theta: str, statistics: Statistics):
        super().__init__()
        out = teacher.channels
        self.query = Projection(student.channels, out, kernel, statistics)
        self.value = Projection(student.channels, out, kernel, statistics)
        self.key = Projection(out, out, kernel, statistics) if theta == "learned" else nn.Identity()

    def forward(self, student: Tensor, teacher: Tensor) -> list[Tensor]:
        """Query, key, value and target (the raw teacher), each (B, C, H, W), of one precision of at least float32."""
        maps = [self.query(student), self.key(teacher), self.value(student), teacher]
        dtype = torch.promote_types(maps[0].dtype, teacher.dtype)
        return [x.to(dtype) for x in maps]


def patch_tokens(x: Tensor, patch: Size, group: int, heads: int) -> Tensor:
    """Positions of patches as rows, the patches of a group stacked on the channel axis, cut into heads.

    Patches do not overlap, start at the top left and count row by row; rows and columns that fill none are left out.

    Args:
        x: (B, C, H, W).
        patch: (h, w) cells.
        group: consecutive patches that share one attention; divides their number.
        heads: contiguous slices of the channels; divides C.

    Returns:
        (B * G * heads, h * w, group * C / heads), contiguous, with G groups an image.
    """
    (h, w), (images, channels) = patch, x.shape[:2]
    down, across = x.shape[2] // h, x.shape[3] // w
    x = x[:, :, : down * h, : across * w].unflatten(3, (across, w)).unflatten(2, (down, h))
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(images * (down * across // group), group, h * w, heads, channels // heads)
    return x.permute(0, 3, 2, 1, 4).reshape(-1, h * w, group * channels // heads).contiguous()


def center_cell(image: int, size: Size, batch_info: BatchInfo) -> Size:
    """(row, column) of the cell of a map under the center of an image's largest box; without boxes the middle one."""
    boxes = batch_info.boxes[image] if image < len(batch_info.boxes) else torch.zeros(0, 4)
    if not len(boxes):
        return size[0] // 2, size[1] // 2
    x1, y1, x2, y2 = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1).argmax()].tolist()
    height, width = batch_info.padded_size
    row, column = int((y1 + y2) / 2 / height * size[0]), int((x1 + x2) / 2 / width * size[1])
    return min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)


@register_loss("tat", default_share=0.5, default_adapter_lr=5.0)
class Tat(nn.Module):
    """The TaT loss: patch-group and anchor-point distillation, each a mean of squared differences.

    The defaults are the authors' ImageNet code: 3x3 projections, identity theta, one attention over the whole map.
    Their segmentation code is ``PROJECTION_KERNEL: 1, THETA: learned, STATISTICS: image`` with PATCH, GROUP and
    ANCHOR_WEIGHT; its batch mode is ``GROUP: 1``, its patch-by-patch mode ``GROUP: 1, PATCH_SUM: True``.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        projection_kernel: side of the convolutions of all projections.
        theta: the key: the raw teacher map (``identity``) or a projection of it (``learned``).
        statistics: of the batch norms: over the ``batch``, or of each ``image`` alone.
        rows: whose positions the softmax has one row for: ``student`` is the authors' code; ``teacher`` is the paper's
            per-pixel definition, normalized over student positions.
        patch: (h, w) cells of a patch; empty for the whole map.
        group: consecutive patches that share one attention.
        heads: channel slices with an attention each.
        patch_sum: add the patches' means instead of averaging them.
        anchor_size: (h, w) cells that are averaged to one anchor.
        patch_weight, anchor_weight: factors of the two parts; a part of weight 0 is not computed.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: heads that do not divide the teacher's channels; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        projection_kernel: Literal[1, 3] = 3,
        theta: Literal["identity", "learned"] = "identity",
        statistics: Statistics = "batch",
        rows: Literal["student", "teacher"] = "student",
        patch: OptionalCells = (),
        group: Count = 1,
        heads: Count = 1,
        patch_sum: bool = False,
        anchor_size: Cells = (4, 4),
        patch_weight: NonNegative = 1.0,
        anchor_weight: NonNegative = 0.0,
        resize: Resize = "none",
    ):
        super().__init__()
        check_sizes(student, teacher, resize)
        for level, t in enumerate(teacher):
            if t.channels % heads:
                raise ConfigError(
                    f"HEADS is {heads}, it must divide the teacher's {t.channels} channels of level {level}"
                )
        self.patch: Size | None = (patch[0], patch[1]) if patch else None
        self.anchor_size: Size = (anchor_size[0], anchor_size[1])
        self.rows, self.group, self.heads, self.patch_sum, self.resize = rows, group, heads, patch_sum, resize
        self.weights = {name: w for name, w in (("patch", patch_weight), ("anchor", anchor_weight)) if w != 0}
        self.parts = tuple(self.weights)
        pairs = zip(student, teacher, strict=True)
        self.adapters = nn.ModuleList(Projections(s, t, projection_kernel, theta, statistics) for s, t in pairs)

    @staticmethod
    def conflicts(*, patch_weight: float, anchor_weight: float, **_: Any) -> Iterator[str]:
        """What is wrong with options taken together."""
        if patch_weight == anchor_weight == 0:
            yield "PATCH_WEIGHT and ANCHOR_WEIGHT are both 0; to switch the loss off, set its WEIGHT to 0"

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, Tensor]:
        """Parts ``patch`` and ``anchor``, weighted, of L student maps (B, Cs, H, W) and teacher maps (B, C, H, W).

        Raises:
            ConfigError: a map smaller than a patch or an anchor; a number of patches that GROUP does not divide.
        """
        branches = {"patch": self.patch_loss, "anchor": self.anchor_loss}
        total: dict[str, Tensor] = {}
        for level, (adapter, s, t) in enumerate(zip(self.adapters, student, teacher, strict=True)):
            s, t = same_size(s, t, self.resize)
            self._check_map(level, (t.shape[2], t.shape[3]))
            maps = adapter(s, t)
            with torch.autocast(t.device.type, enabled=False):
                for name, weight in self.weights.items():
                    part = weight * branches[name](maps)
                    total[name] = total[name] + part if name in total else part
        return total

    def shown(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, list[Tensor]]:
        """For pictures: ``attention``, the weights by which all positions are mixed for one, L maps (N, H, W).

        The one is the center of the image's largest box, without boxes that of the map. The weights are those in its
        patch (elsewhere 0), the mean over heads, 1 in sum (eq. 3-5).
        """
        found = []
        for adapter, s, t in zip(self.adapters, student, teacher, strict=True):
            s, t = same_size(s, t, self.resize)
            query, key, *_ = adapter(s, t)
            cells = [center_cell(i, (t.shape[2], t.shape[3]), batch_info) for i in range(len(t))]
            found.append(torch.stack([self._looked_at(q[None], k[None], c) for q, k, c in zip(query, key, cells)]))
        return {"attention": found}

    def _looked_at(self, query: Tensor, key: Tensor, cell: Size) -> Tensor:
        """The attention (H, W) of the position ``cell`` of one image's maps (1, C, H, W)."""
        size = (query.shape[2], query.shape[3])
        patch = self.patch or size
        q, k = (patch_tokens(x, patch, self.group, self.heads) for x in (query, key))
        logits = q @ k.mT if self.rows == "student" else k @ q.mT
        across = size[1] // patch[1]
        down_in, across_in = (min(c // p, n // p - 1) for c, p, n in zip(cell, patch, size))
        place = min(cell[0] - down_in * patch[0], patch[0] - 1) * patch[1]
        place += min(cell[1] - across_in * patch[1], patch[1] - 1)
        group = (down_in * across + across_in) // self.group
        rows = logits.unflatten(0, (-1, self.heads))[group, :, place].softmax(-1).mean(0)
        whole = query.new_zeros(size)
        top, left = down_in * patch[0], across_in * patch[1]
        whole[top : top + patch[0], left : left + patch[1]] = rows.view(patch)
        return whole

    def patch_loss(self, maps: list[Tensor]) -> Tensor:
        """Patch-group distillation of query, key, value and target maps (B, C, H, W)."""
        size = (maps[0].shape[2], maps[0].shape[3])
        patch = self.patch or size
        tokens = [patch_tokens(x, patch, self.group, self.heads) for x in maps]
        patches = (size[0] // patch[0]) * (size[1] // patch[1]) if self.patch_sum else 1
        return patches * self._distance(tokens) / max(tokens[3].numel(), 1)

    def anchor_loss(self, maps: list[Tensor]) -> Tensor:
        """Anchor-point distillation of the same maps: they are averaged to anchors, then matched as a whole."""
        pooled = [F.avg_pool2d(x, self.anchor_size) for x in maps]
        tokens = [x.flatten(2).transpose(1, 2).contiguous() for x in pooled]
        return self._distance(tokens) / max(tokens[3].numel(), 1)

    def _distance(self, tokens: list[Tensor]) -> Tensor:
        query, key, value, target = tokens
        return matching_distance(*((query, key) if self.rows == "student" else (key, query)), value, target)

    def _check_map(self, level: int, size: Size) -> None:
        for name, cells, used in (("PATCH", self.patch, "patch"), ("ANCHOR_SIZE", self.anchor_size, "anchor")):
            if used in self.weights and cells and (cells[0] > size[0] or cells[1] > size[1]):
                raise ConfigError(f"{name} is {list(cells)}, larger than the map of {size} cells of level {level}")
        if "patch" in self.weights:
            patch = self.patch or size
            patches = (size[0] // patch[0]) * (size[1] // patch[1])
            if patches % self.group:
                raise ConfigError(
                    f"GROUP is {self.group}, it must divide the {patches} patches of {list(patch)} cells that level "
                    f"{level} has on a map of {size}"
                )
