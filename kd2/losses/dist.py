"""DIST: the relations among predictions, of the classes within a sample and of the samples within a class.

Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022 (arXiv 2205.10536), section 4, and
the authors' code of each task.
Letters: N images, A anchors a cell, K classes, P cells of a map (1 for a classifier's logits).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.distill.values import NonNegative, Positive
from kd2.losses.logit_checks import check_classes, check_scores, refuse_boxes, softened
from kd2.losses.registry import register_loss
from kd2.ops.masks import image_region
from kd2.ops.reduction import added
from kd2.ops.resize import Resize, check_sizes, same_size

EPS = 1e-8
# A line whose deviations are no larger than this beside its values is constant up to rounding.
_CONSTANT = 1e-6


def correlations(
    a: Tensor, b: Tensor, over: tuple[int, ...], counted: Tensor | None = None, skip_constant: bool = False
) -> Tensor:
    """Pearson's r of every line of two tensors, ``<a - mean a, b - mean b> / (|a - mean a| |b - mean b| + 1e-8)``.

    A constant line has 0. In ``a`` its gradient is that of the small number: up to 1e8 times the other's deviation.

    Args:
        a, b: one shape; a line goes over the axes ``over``, which stay with length 1.
        counted: bool, broadcasts to both: other elements are no part of a line. None: all of them count.
        skip_constant: a line of ``a`` that is constant up to rounding has 0 without gradient.
    """
    u, v = (_centered(x, over, counted) for x in (a, b))
    norms = [x.square().sum(over, keepdim=True) for x in (u, v)]
    if skip_constant:
        constant = norms[0] <= _CONSTANT**2 * a.square().sum(over, keepdim=True)
        u, norms[0] = u.masked_fill(constant, 0), norms[0].masked_fill(constant, 0)
    return (u * v).sum(over, keepdim=True) / (_root(norms[0]) * _root(norms[1]) + EPS)


def relations(
    student: Tensor, teacher: Tensor, counted: Tensor | None = None, skip_constant: bool = False
) -> tuple[Tensor, Tensor]:
    """``1 - mean r`` over samples, each a line of K predictions, and over classes, each a line of all samples.

    Args:
        student, teacher: predictions, no logits, (N, A, K, P); every (n, a, p) is a sample.
        counted: (N, 1, 1, P) bool; a sample that does not count is in no mean. None: all of them count.

    Returns:
        The part between classes (inter) and the one within a class (intra); exact zeros when there is no sample.
    """
    if not student.numel():
        return student.sum(), student.sum()
    inter = correlations(student, teacher, (2,), skip_constant=skip_constant)
    intra = 1 - correlations(student, teacher, (0, 1, 3), counted, skip_constant).mean()
    if counted is None:
        return 1 - inter.mean(), intra
    samples = counted.expand(inter.shape).sum()
    return torch.where(counted, 1 - inter, 0).sum() / samples.clamp(min=1), intra * (samples > 0)


def _centered(x: Tensor, over: tuple[int, ...], counted: Tensor | None) -> Tensor:
    """Deviations from the mean of each line; 0 where an element is no part of it."""
    if counted is None:
        return x - x.mean(over, keepdim=True)
    number = counted.expand(x.shape).sum(over, keepdim=True).clamp(min=1)
    return (x - (x * counted).sum(over, keepdim=True) / number) * counted


def _root(x: Tensor) -> Tensor:
    """The square root, whose gradient at 0 is 0."""
    return torch.where(x > 0, x, 1).sqrt() * (x > 0)


_ONE_CLASS = "a sample has one class, it has no relations; DIST needs at least two"


@register_loss("dist")
class Dist(nn.Module):
    """``relations`` of the softened predictions, times T^2, summed over the tap's maps.

    A classifier's samples are the images of this process; the batch of a process is a hyper-parameter of ``intra``. On
    maps every cell is a sample, or an anchor of a cell; on a box predictor's scores every proposal. The published
    weight is 2 for classifiers and 1 for maps and proposals.

    Args:
        student, teacher: what the probe saw of the tapped scores, before the activation; the classes in one order.
        temperature: divides the scores; 4 on CIFAR-100.
        beta, gamma: factors of ``inter`` and ``intra``.
        t_squared: multiply by the temperature's square, as the authors' code does. A correlation does not shrink with
            T, so at T 4 the loss counts 16 times.
        activation: ``softmax`` over the classes, or ``sigmoid`` for heads whose classes are apart, at temperature 1.
        row: a sample of a dense head: ``location`` takes all its anchors as one, as published; ``anchor`` each.
        skip_constant: constant student predictions, such as a new head's of zeros, send no gradient; it would be huge.
        clip_to_image: leave cells over batch padding out.
        resize: the side whose scores are interpolated when sizes differ.

    Raises:
        ConfigError: class counts that differ; one class; maps of boxes among the scores; sizes that differ without
            ``resize``.
    """

    over_classes = True

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        temperature: Positive = 1.0,
        beta: NonNegative = 1.0,
        gamma: NonNegative = 1.0,
        t_squared: bool = True,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        row: Literal["location", "anchor"] = "location",
        skip_constant: bool = False,
        clip_to_image: bool = False,
        resize: Resize = "none",
    ):
        super().__init__()
        check_classes(student, teacher)
        refuse_boxes(student)
        check_sizes(student, teacher, resize)
        if any(s.channels < 2 for s in student):
            raise ConfigError(_ONE_CLASS)
        self.temperature, self.beta, self.gamma, self.resize = temperature, beta, gamma, resize
        self.factor = temperature**2 if t_squared else 1.0
        self.activation, self.row, self.skip_constant = activation, row, skip_constant
        self.clip_to_image = clip_to_image
        self.needs = frozenset(["coding"] * (row == "anchor") + ["sizes"] * clip_to_image)
        self.parts = ("inter", "intra")

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, Tensor]:
        """The two parts, times beta and gamma, of L maps (N, C, H, W) on both sides; at least float32."""
        with torch.autocast(student[0].device.type, enabled=False):
            levels = [self._level(s, t, batch_info) for s, t in zip(student, teacher, strict=True)]
            inter, intra = (self.factor * added(part) for part in zip(*levels, strict=True))
            return {"inter": self.beta * inter, "intra": self.gamma * intra}

    def _level(self, student: Tensor, teacher: Tensor, batch_info: BatchInfo) -> tuple[Tensor, Tensor]:
        s, t = same_size(student, teacher, self.resize)
        clipped = self.clip_to_image and s.shape[2:] != (1, 1)
        counted = image_region(s, batch_info).flatten(2)[:, :, None] if clipped else None
        anchors = self._anchors(s, batch_info)
        s, t = (x.flatten(2).unflatten(1, (anchors, -1)) for x in softened(s, t, self.temperature))
        s, t = (x.softmax(2) if self.activation == "softmax" else x.sigmoid() for x in (s, t))
        return relations(s, t, counted, self.skip_constant)

    def _anchors(self, x: Tensor, batch_info: BatchInfo) -> int:
        """Into how many samples the channels of a cell are split."""
        if self.row == "location":
            return 1
        assert batch_info.coding is not None, "the builder refuses a loss whose needs no one meets"
        (grid,) = batch_info.coding.grids([(x.shape[2], x.shape[3])])
        check_scores(x.shape[1], len(grid.base), batch_info.coding.classes)
        if batch_info.coding.classes < 2:
            raise ConfigError(f"{_ONE_CLASS}; ROW location compares the anchors of a cell")
        return len(grid.base)
