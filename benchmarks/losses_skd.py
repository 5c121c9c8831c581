"""Pixel-wise and pair-wise distillation: the losses against their formulas on rows of classes and on whole graphs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import Case
from kd2.distill import FeatureSpec, BatchInfo
from kd2.losses.pairwise import Pairwise
from kd2.losses.pixelwise import Pixelwise

# From the student's and the teacher's map to the loss.
Formula = Callable[[Tensor, Tensor], Tensor]


def pixelwise(device: torch.device) -> Case:
    """Cross-entropy of 1 x 19 x 512 x 512 scores against classes moved last, forward and backward."""

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        rows = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (student, teacher)]
        return -(rows[1].softmax(1) * rows[0].log_softmax(1)).sum() / (512 * 512)

    return _case(device, Pixelwise, formula, (19, 19), (1, 512, 512), divergence="cross_entropy", reduction="map")


def pairwise(device: torch.device) -> Case:
    """Every cell of 2 x 65 x 65 a node, 128 channels in the student and 512 in the teacher, forward and backward."""
    return _case(device, Pairwise, _whole_graph, (128, 512), (2, 65, 65), patch=(1, 1))


def local_pairwise(device: torch.device) -> Case:
    """Nodes connected to the 24 around them, 2 x 33 x 33, against the whole graph times its mask."""

    def formula(student: Tensor, teacher: Tensor) -> Tensor:
        y, x = (i.flatten() for i in torch.meshgrid(*[torch.arange(33, device=device)] * 2, indexing="ij"))
        near = (y[:, None] - y).abs().maximum((x[:, None] - x).abs()) <= 2
        error = (_graph(student) - _graph(teacher)) * near
        return error.square().sum() / near.sum() / len(student)

    return _case(device, Pairwise, formula, (128, 512), (2, 33, 33), patch=(1, 1), connection_range=2)


def _whole_graph(student: Tensor, teacher: Tensor) -> Tensor:
    return (_graph(student) - _graph(teacher)).square().mean()


def _graph(x: Tensor) -> Tensor:
    nodes = x.flatten(2) / (x.flatten(2).norm(dim=1, keepdim=True) + 1e-8).detach()
    return nodes.mT @ nodes


def _case(
    device: torch.device,
    kind: type[nn.Module],
    formula: Formula,
    channels: tuple[int, int],
    shape: tuple[int, int, int],
    **options,
) -> Case:
    torch.manual_seed(0)
    images, *size = shape
    student, teacher = (torch.randn(images, c, *size, device=device) for c in channels)
    student.requires_grad_()
    criterion = kind(*([FeatureSpec(c, tuple(size), (8, 8))] for c in channels), **options)

    def ours() -> list[Tensor]:
        loss = criterion([student], [teacher], BatchInfo([], (0, 0)))
        return [loss, *torch.autograd.grad(loss, student)]

    def reference() -> list[Tensor]:
        loss = formula(student, teacher)
        return [loss, *torch.autograd.grad(loss, student)]

    return Case(ours, reference, tolerance=1e-4)


CASES = {"pixelwise_19x512x512": pixelwise, "pairwise_65x65": pairwise, "pairwise_33x33_range_2": local_pairwise}
