"""MGD against its formula and its two convolutions, the distance of feature maps in either precision, and PKD."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import Case
from kd2.distill import BatchInfo, FeatureSpec
from kd2.losses.features import FeatureDistance, feature_distance
from kd2.losses.mgd import Mgd, kept, mgd_loss
from kd2.losses.pkd import Pkd, pearson_distance

_SIZE = (50, 68)
_SPEC = [FeatureSpec(256, _SIZE, (16, 16))]
_BATCH_INFO = BatchInfo([(800, 1088)] * 2, (800, 1088))


def mgd(device: torch.device) -> Case:
    """Pixel mask, ratio 0.65, on 2 x 256 x 50 x 68, forward and backward."""
    student, teacher = _maps(device)
    loss = Mgd(_SPEC, _SPEC).to(device)
    generator = torch.Generator(device)
    start = _BATCH_INFO.generator(device).get_state()

    def formula() -> list[Tensor]:
        mask = kept(student, 0.65, "pixel", generator.set_state(start))
        return [mgd_loss(student, teacher, mask, loss.generations[0])]

    leaves = [student, *loss.parameters()]
    return Case(lambda: [loss([student], [teacher], _BATCH_INFO)], formula, tolerance=1e-4, leaves=leaves)


def mgd_convolutions(device: torch.device) -> Case:
    """The loss against its generation alone, which gets a masked map and the loss's gradient ready-made.

    Compared are the gradients of the generation; the loss and the student's gradient are what the loss does beyond it.
    """
    student, teacher = _maps(device)
    loss = Mgd(_SPEC, _SPEC).to(device)
    generation = loss.generations[0]
    leaves = list(generation.parameters())
    ready = (student * kept(student, 0.65, "pixel", _BATCH_INFO.generator(device))).detach().requires_grad_()
    slope = (generation(ready) - teacher).detach()

    def ours() -> list[Tensor]:
        return list(torch.autograd.grad(loss([student], [teacher], _BATCH_INFO), [*leaves, student])[:-1])

    def formula() -> list[Tensor]:
        return list(torch.autograd.grad(generation(ready), [*leaves, ready], slope)[:-1])

    return Case(ours, formula, tolerance=1e-4)


def distance(dtype: torch.dtype) -> Callable[[torch.device], Case]:
    """Plain mimicking on 2 x 256 x 50 x 68 maps of a precision, forward and backward."""

    def build(device: torch.device) -> Case:
        student, teacher = (x.detach().to(dtype) for x in _maps(device))
        student.requires_grad_()
        loss = FeatureDistance(_SPEC, _SPEC)

        def formula() -> list[Tensor]:
            return [feature_distance(student, teacher, "sum_per_image")]

        return Case(lambda: [loss([student], [teacher], _BATCH_INFO)], formula, tolerance=1e-5, leaves=[student])

    return build


def correlation(device: torch.device) -> Case:
    """PKD on 2 x 256 x 50 x 68 maps, forward and backward."""
    student, teacher = _maps(device)
    loss = Pkd(_SPEC, _SPEC)

    def formula() -> list[Tensor]:
        return [pearson_distance(student, teacher)]

    return Case(lambda: [loss([student], [teacher], _BATCH_INFO)], formula, tolerance=1e-5, leaves=[student])


def _maps(device: torch.device) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student = torch.randn(2, 256, *_SIZE, device=device, requires_grad=True)
    return student, torch.randn(2, 256, *_SIZE, device=device)


CASES = {
    "mgd": mgd,
    "mgd_two_convolutions": mgd_convolutions,
    "feature_distance": distance(torch.float32),
    "feature_distance_bfloat16": distance(torch.bfloat16),
    "pkd": correlation,
}
