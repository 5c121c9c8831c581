"""MGD: the loss against the formula written out, and against its two convolutions alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import Case
from kd2.distill import FeatureSpec, BatchInfo
from kd2.losses.mgd import Mgd, kept

_SPEC = [FeatureSpec(256, (50, 68), (16, 16))]
_SCENE = BatchInfo([(800, 1088)] * 2, (800, 1088))


def formula(device: torch.device) -> Case:
    """Pixel mask, ratio 0.65, on 2 x 256 x 50 x 68, forward and backward."""
    student, teacher, criterion = _inputs(device)
    leaves = [student, *criterion.parameters()]

    def ours() -> list[Tensor]:
        loss = criterion([student], [teacher], _SCENE)
        return [loss, *torch.autograd.grad(loss, leaves)]

    def reference() -> list[Tensor]:
        mask = kept(student, 0.65, "pixel", _SCENE.generator(device))
        hidden = F.relu(F.conv2d(student * mask, *leaves[1:3], padding=1))
        loss = ((F.conv2d(hidden, *leaves[3:], padding=1) - teacher) ** 2).sum() / 2
        return [loss, *torch.autograd.grad(loss, leaves)]

    return Case(ours, reference, tolerance=1e-4)


def convolutions(device: torch.device) -> Case:
    """The loss against its generation block alone, which gets a masked map and the loss's gradient ready-made.

    Compared are the gradients of the block; the loss and the student's gradient are what the loss does beyond it.
    """
    student, teacher, criterion = _inputs(device)
    block = criterion.blocks[0].generation
    leaves = list(block.parameters())
    ready = (student * kept(student, 0.65, "pixel", _SCENE.generator(device))).detach().requires_grad_()
    slope = (block(ready) - teacher).detach()

    def ours() -> list[Tensor]:
        return list(torch.autograd.grad(criterion([student], [teacher], _SCENE), [*leaves, student])[:-1])

    def reference() -> list[Tensor]:
        return list(torch.autograd.grad(block(ready), [*leaves, ready], slope)[:-1])

    return Case(ours, reference, tolerance=1e-4)


def _inputs(device: torch.device) -> tuple[Tensor, Tensor, Mgd]:
    torch.manual_seed(0)
    student = torch.randn(2, 256, 50, 68, device=device, requires_grad=True)
    teacher = torch.randn(2, 256, 50, 68, device=device)
    return student, teacher, Mgd(_SPEC, _SPEC).to(device)


CASES = {"mgd": formula, "mgd_two_convolutions": convolutions}
