"""Losses of what detectors and classifiers predict against their formulas."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import Case
from kd2.distill import AnchorGrid, BatchInfo, BoxCoder, BoxCoding, FeatureSpec, Proposals
from kd2.losses.dense_kd import DenseKd, box_divergences, score_divergences
from kd2.losses.dist import Dist
from kd2.losses.dkd import decoupled
from kd2.losses.roi_kd import RoiKd

_ANCHORS, _CLASSES, _SIZE, _PIXELS = 9, 80, (50, 68), (800, 1088)
_BASES = torch.tensor([[-32.0, -32, 32, 32]]).repeat(_ANCHORS, 1)


def _coding() -> BoxCoding:
    def grids(sizes: list[tuple[int, int]]) -> list[AnchorGrid]:
        return [AnchorGrid(_BASES, (16, 16), size) for size in sizes]

    return BoxCoding(grids, BoxCoder(), BoxCoder(), _CLASSES)


def dense(device: torch.device) -> Case:
    """Scores of 80 classes and boxes of nine anchors a cell, 1 x 50 x 68 cells, forward and backward."""
    torch.manual_seed(0)
    scores, boxes = ([torch.randn(1, _ANCHORS * c, *_SIZE, device=device) for _ in range(2)] for c in (_CLASSES, 4))
    scores = [x - 4 for x in scores]
    leaves = [scores[0].requires_grad_(), boxes[0].requires_grad_()]
    spec = [FeatureSpec(x.shape[1], _SIZE, (16, 16)) for x in leaves]
    loss, coding = DenseKd(spec, spec, box="giou"), _coding()
    info = BatchInfo([_PIXELS], _PIXELS, coding=coding)
    anchors = coding.grids([_SIZE])[0].on(device).dense()

    def formula() -> list[Tensor]:
        p, q = (x.sigmoid().unflatten(1, (_ANCHORS, -1)) for x in scores)
        best = q.amax(2)
        norm = best[best > 0.05].sum().clamp(min=1)
        weight = (p - q).abs().amax(2).detach()
        return [
            score_divergences(*scores).sum() / norm,
            (box_divergences(*boxes, coding, anchors) * weight).sum() / norm,
        ]

    return Case(lambda: list(loss([scores[0], boxes[0]], [scores[1], boxes[1]], info).values()), formula, 1e-4, leaves)


def heads(device: torch.device) -> Case:
    """DKD and bounded boxes of 1024 proposals over 80 classes and background, forward and backward."""
    torch.manual_seed(0)
    student, teacher = ([torch.randn(1024, c, device=device) for c in (_CLASSES + 1, 4 * _CLASSES)] for _ in range(2))
    for x in student:
        x.requires_grad_()
    labels = torch.randint(0, _CLASSES + 1, (1024,), device=device)
    targets = torch.randn(1024, 4, device=device)
    spec = [FeatureSpec(x.shape[1], (1, 1), (1.0, 1.0)) for x in student]
    loss = RoiKd(spec, spec, box="bounded")
    info = BatchInfo([], (0, 0), proposals=[Proposals(labels, _CLASSES, lambda: targets)])
    rows = torch.where(labels < _CLASSES)[0]

    def formula() -> list[Tensor]:
        target, others = decoupled(student[0], teacher[0], labels)
        own, other = (
            (x[1].view(1024, -1, 4)[rows, labels[rows]] - targets[rows]).square().sum(1) for x in (student, teacher)
        )
        return [target + 0.25 * others, own[own > other].sum() / 1024]

    maps = [[x[:, :, None, None] for x in side] for side in (student, teacher)]
    return Case(lambda: list(loss(*maps, info).values()), formula, 1e-4, student)


def relations(shape: tuple[int, ...]) -> Callable[[torch.device], Case]:
    """DIST at temperature 1 on scores of a shape (N, K, H, W), forward and backward."""

    def build(device: torch.device) -> Case:
        torch.manual_seed(0)
        student, teacher = (torch.randn(*shape, device=device) for _ in range(2))
        student.requires_grad_()
        spec = [FeatureSpec(shape[1], (shape[2], shape[3]), (8.0, 8.0))]
        loss = Dist(spec, spec)

        def formula() -> list[Tensor]:
            s, t = (x.softmax(1).movedim(1, 3).flatten(0, 2) for x in (student, teacher))
            return [1 - _pearson(s, t).mean(), 1 - _pearson(s.T, t.T).mean()]

        return Case(lambda: list(loss([student], [teacher], BatchInfo([], (0, 0))).values()), formula, 1e-4, [student])

    return build


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlations of the rows of two matrices."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


CASES = {
    "dense_kd_720x50x68": dense,
    "roi_kd_1024x81": heads,
    "dist_256x1000": relations((256, 1000, 1, 1)),
    "dist_19x128x128": relations((1, 19, 128, 128)),
}
