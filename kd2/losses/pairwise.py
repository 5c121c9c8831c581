"""Pair-wise distillation (PA): nodes of a map resemble each other in the student as they do in the teacher.

Sources: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, section 3.1, and its
journal version "Structured Knowledge Distillation for Dense Prediction" (arXiv 1903.04197).
Letters: N images, Cs and Ct channels of student and teacher, H x W map, h x w nodes, n = h * w.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import CountOrZero, OptionalCells, Positive, Range
from kd2.losses.registry import register_loss
from kd2.ops.affinity import connections, graph_distance, local_graph_distance
from kd2.ops.precision import wide
from kd2.ops.reduction import added
from kd2.ops.resize import Resize, check_sizes, same_size

Size = tuple[int, int]
Normalize = Literal["detached", "cosine"]
Scale = Annotated[float, Range("a share of the map between 0 and 1", low=0, high=1, open=("low", "high"))]


def directions(nodes: Tensor, normalize: Normalize, eps: float) -> Tensor:
    """Nodes (N, C, h, w) of unit length over C.

    ``detached``: x / (|x| + eps) with the length as a constant for the gradient. ``cosine``: x / |x|, differentiated.
    A node no longer than ``eps`` has no direction: it becomes 0 and gets no gradient.
    """
    length = nodes.norm(dim=1, keepdim=True)
    if normalize == "detached":
        return nodes * ((length > eps) / (length + eps)).detach()
    return nodes * ((length > eps) / length.clamp(min=eps))


def pairwise_loss(student: Tensor, teacher: Tensor, reach: int = 0) -> Tensor:
    """``1/N sum (A^S_ij - A^T_ij)^2 / edges`` over connected nodes i, j; ``A = S^T S`` holds their cosines (eq. 2).

    Args:
        student: nodes (N, Cs, h, w) of unit length, see ``directions``.
        teacher: nodes (N, Ct, h, w) of unit length.
        reach: largest Chebyshev distance of connected nodes; 0 connects all.
    """
    graphs = [x.flatten(2).mT @ x.flatten(2) for x in (student, teacher)]
    rows, columns = (torch.arange(cells, device=student.device) for cells in student.shape[2:])
    y, x = (place.flatten() for place in torch.meshgrid(rows, columns, indexing="ij"))
    distance = (y[:, None] - y).abs().maximum((x[:, None] - x).abs())
    connected = distance <= (reach or distance.max())
    return ((graphs[0] - graphs[1]).square() * connected).sum() / connected.sum() / len(student)


@register_loss("pairwise", default_share=0.5)
class Pairwise(nn.Module):
    """``pairwise_loss`` of the pooled and normalized nodes, summed over levels.

    Only graphs are compared, so channel counts may differ and nothing is trained. The defaults are the released code
    (its script: WEIGHT 0.5); most of a map then becomes a handful of nodes that look alike. The journal's best is
    ``PATCH: [2, 2], POOLING: avg`` (WEIGHT 10), the conference code ``PATCH: [1, 1], NORMALIZE: cosine``.

    Args:
        student, teacher: what the probe saw of the tapped levels.
        scale: a node is a window of (int(H * scale), int(W * scale)) cells; the last row and column may be smaller.
        patch: (rows, columns) of cells of a node, in place of ``scale``; [1, 1] makes every cell a node.
        pooling: how the cells of a node become one.
        normalize: see ``directions``.
        eps: see ``directions``; the released code scales the gradient of a zero vector by 1e8 instead of dropping it.
        connection_range: largest Chebyshev distance of connected nodes, in nodes; 0 connects all. The journal's alpha
            nearest nodes are those of range r with alpha = (2 r + 1)^2.
        resize: the side that is interpolated when sizes differ.

    Raises:
        ConfigError: a level of less than two nodes; sizes that differ without ``resize``.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        scale: Scale = 0.5,
        patch: OptionalCells = (),
        pooling: Literal["max", "avg"] = "max",
        normalize: Normalize = "detached",
        eps: Positive = 1e-8,
        connection_range: CountOrZero = 0,
        resize: Resize = "none",
    ):
        super().__init__()
        check_sizes(student, teacher, resize)
        self.scale, self.patch, self.pooling = scale, tuple(patch), pooling
        self.normalize, self.eps = normalize, eps
        self.connection_range, self.resize = connection_range, resize
        for s, t in zip(student, teacher, strict=True):
            self.window(s.size if resize == "teacher" else t.size)

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> Tensor:
        """The unweighted loss of L student maps (N, Cs, H, W) and L teacher maps (N, Ct, H, W), at least float32.

        Raises:
            ConfigError: a map with less than two nodes.
        """
        with torch.autocast(student[0].device.type, enabled=False):
            pairs = zip(student, teacher, strict=True)
            return added(self._level(*same_size(s, t, self.resize)) for s, t in pairs)

    def graph_nodes(self, x: Tensor) -> Tensor:
        """The normalized nodes (N, C, h, w) of a map (N, C, H, W)."""
        window = self.window((x.shape[2], x.shape[3]))
        if window != (1, 1):
            pool = F.max_pool2d if self.pooling == "max" else F.avg_pool2d
            x = pool(x, window, stride=window, ceil_mode=True)
        return directions(x, self.normalize, self.eps)

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
