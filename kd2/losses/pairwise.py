"""Pair-wise distillation (PA): nodes of a map resemble each other in the student as they do in the teacher.

Sources: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, section 3.1, and its
journal version "Structured Knowledge Distillation for Dense Prediction" (arXiv 1903.04197).
Letters: N images, Cs and Ct channels of student and teacher, H x W map, h x w nodes, n = h * w.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.ops.affinity import connections, graph_distance, local_graph_distance
from kd2.ops.precision import wide
from kd2.ops.resize import Resize, check_sizes, same_size

Size = tuple[int, int]
Norm = Literal["detached", "cosine"]


def directions(nodes: Tensor, norm: Norm, eps: float) -> Tensor:
    """Nodes (N, C, h, w) of unit length over C.

    ``detached``: x / (|x| + eps) with the length as a constant for the gradient. ``cosine``: x / |x|, differentiated.
    A node no longer than ``eps`` has no direction: it becomes 0 and gets no gradient.
    """
    length = nodes.norm(dim=1, keepdim=True)
    if norm == "detached":
        return nodes * ((length > eps) / (length + eps)).detach()
    return nodes * ((length > eps) / length.clamp(min=eps))


class Pairwise(nn.Module):
    """``1/N sum (A^S_ij - A^T_ij)^2 / edges`` over connected nodes i, j; A holds their cosines. Summed over levels.

    Only graphs are compared, so channel counts may differ and nothing is trained. The defaults are the released code
    (its script: WEIGHT 0.5); most of a map then becomes a handful of nodes that look alike. The journal's best is
    ``PATCH: [2, 2], POOL: avg`` (WEIGHT 10), the conference code ``PATCH: [1, 1], NORM: cosine``.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        scale: a node is a window of (int(H * scale), int(W * scale)) cells; the last row and column may be smaller.
        patch: (rows, columns) of cells of a node, in place of ``scale``; [1, 1] makes every cell a node.
        pool: how the cells of a node become one.
        norm: see ``directions``.
        eps: see ``directions``; the released code scales the gradient of a zero vector by 1e8 instead of dropping it.
        connection_range: largest Chebyshev distance of connected nodes, in nodes; 0 connects all. The journal's alpha
            nearest nodes are those of range r with alpha = (2 r + 1)^2.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: a number that makes no sense; a level of less than two nodes; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        scale: float = 0.5,
        patch: Sequence = (),
        pool: Literal["max", "avg"] = "max",
        norm: Norm = "detached",
        eps: float = 1e-8,
        connection_range: int = 0,
        resize: Resize = "none",
    ):
        super().__init__()
        check_sizes(student, teacher, resize)
        _check_numbers(scale, patch, eps, connection_range)
        self.scale, self.patch, self.pool, self.norm, self.eps = scale, tuple(patch), pool, norm, eps
        self.connection_range, self.resize = connection_range, resize
        for s, t in zip(student, teacher):
            self.window(s.size if resize == "teacher" else t.size)

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W), at least float32.

        Raises:
            ConfigError: a map with less than two nodes.
        """
        with torch.autocast(student[0].device.type, enabled=False):
            return sum(self._level(*same_size(s, t, self.resize)) for s, t in zip(student, teacher, strict=True))

    def graph_nodes(self, x: Tensor) -> Tensor:
        """The normalized nodes (N, C, h, w) of a map (N, C, H, W)."""
        window = self.window((x.shape[2], x.shape[3]))
        if window != (1, 1):
            pool = F.max_pool2d if self.pool == "max" else F.avg_pool2d
            x = pool(x, window, stride=window, ceil_mode=True)
        return directions(x, self.norm, self.eps)

    def window(self, size: Size) -> Size:
        """Cells (rows, columns) of one node on a map of ``size`` cells. Raises ConfigError for less than two nodes."""
        rows, columns = self.patch or (int(size[0] * self.scale), int(size[1] * self.scale))
        if rows < 1 or columns < 1 or (rows >= size[0] and columns >= size[1]):
            key = f"PATCH is {list(self.patch)}" if self.patch else f"SCALE is {self.scale}"
            raise ConfigError(
                f"{key}: a node of {rows} x {columns} cells on a map of {size} cells; expected at least one cell a "
                "node and two nodes"
            )
        return (rows, columns)

    def _level(self, student: Tensor, teacher: Tensor) -> Tensor:
        dtype = wide(student, teacher)
        s, t = (self.graph_nodes(x.to(dtype)) for x in (student, teacher))
        grid, reach = (s.shape[2], s.shape[3]), self.connection_range
        if 0 < reach < max(grid) - 1:
            distance, edges = local_graph_distance(s, t, reach), connections(grid, reach)
        else:
            distance, edges = graph_distance(s.flatten(2), t.flatten(2)), (grid[0] * grid[1]) ** 2
        return distance / (edges * max(len(s), 1))


def _check_numbers(scale: float, patch: Sequence, eps: float, connection_range: int) -> None:
    if not 0 < scale < 1:
        raise ConfigError(f"SCALE is {scale}, expected a share of the map between 0 and 1")
    if patch and (len(patch) != 2 or not all(isinstance(c, int) and c > 0 for c in patch)):
        raise ConfigError(f"PATCH is {patch}, expected two whole numbers above 0: rows and columns")
    if not eps > 0:
        raise ConfigError(f"EPS is {eps}, expected a number above 0")
    if connection_range < 0:
        raise ConfigError(f"CONNECTION_RANGE is {connection_range}, expected a whole number, 0 or more")


TERM = Pairwise
