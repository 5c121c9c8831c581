"""The parameters of a case in a module, and their gradients by the names of the case."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kd2.distill import DataError, FeatureSpec
from tests.golden.runners._case import Case


def filled(case: Case, module: nn.Module, renamed: Callable[[str], str] = str) -> dict[str, nn.Parameter]:
    """Copy every ``param.NAME`` into the module's parameter or buffer ``renamed(NAME)``, which may have another shape.

    Returns:
        The parameters by the NAME of the case.

    Raises:
        DataError: a parameter that the case does not store.
    """
    parameters = dict(module.named_parameters())
    tensors = parameters | dict(module.named_buffers())
    stored = {name.removeprefix("param."): x for name, x in case.arrays.items() if name.startswith("param.")}
    missing = parameters.keys() - {renamed(name) for name in stored}
    if missing:
        raise DataError(f"{case.name} stores no {sorted(missing)}")
    with torch.no_grad():
        for name, x in stored.items():
            tensors[renamed(name)].copy_(x.view_as(tensors[renamed(name)]))
    return {name: parameters[renamed(name)] for name in stored if renamed(name) in parameters}


def gradients(case: Case, loss: Tensor, student: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """``grad.student`` and ``grad.param.NAME``, in the shapes of the case."""
    leaves = {"student": student} | {f"param.{name}": parameter for name, parameter in parameters.items()}
    found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    return {f"grad.{name}": gradient.view_as(case.arrays[f"grad.{name}"]) for name, gradient in zip(leaves, found)}


def spec(x: Tensor) -> FeatureSpec:
    """What a probe would have seen of a map (N, C, H, W), at stride 1."""
    return FeatureSpec(x.shape[1], (x.shape[2], x.shape[3]), (1.0, 1.0))


def slope(loss: Tensor, student: Tensor) -> Tensor:
    """The loss's gradient, in the shape of ``student``."""
    return torch.autograd.grad(loss, student, retain_graph=True)[0]
