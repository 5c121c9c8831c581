"""Benchmarks of the losses: our implementation beside the plain formula, on equal inputs in one process.

A file of this folder named ``losses_*`` is a family of cases; its ``CASES`` maps a name to a function that builds the
case on a device.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.measure import median_ms, peak_mib, saved_mib

Outputs = Sequence[Tensor]


@dataclass(frozen=True)
class Case:
    """Two ways to compute the same.

    Attributes:
        ours, reference: no arguments; return the same tensors (values and gradients) in the same order.
        tolerance: largest error allowed, relative to the largest element of the reference; 0 asks for equality.
    """

    ours: Callable[[], Outputs]
    reference: Callable[[], Outputs]
    tolerance: float


def loss_cases() -> dict[str, Callable[[torch.device], Case]]:
    """Every case of every family by name."""
    cases: dict[str, Callable[[torch.device], Case]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("losses_"):
            cases |= importlib.import_module(f"{__name__}.{module.name}").CASES
    return cases


def rows(
    names: Sequence[str], threads: Sequence[int], device: torch.device, repeats: int = 10
) -> Iterator[dict[str, str | int | float]]:
    """One row a case and number of threads; times are medians of at least ``repeats`` calls."""
    cases = loss_cases()
    for name in names:
        case = cases[name](device)
        error = max_error(case.ours(), case.reference())
        for count in threads:
            ours, reference = median_ms([case.ours, case.reference], count, repeats)
            yield {
                "name": name,
                "threads": count,
                "ours_ms": ours,
                "reference_ms": reference,
                "ratio": reference / ours,
                "ours_mib": peak_mib(case.ours, device),
                "reference_mib": peak_mib(case.reference, device),
                "ours_saved_mib": saved_mib(case.ours),
                "reference_saved_mib": saved_mib(case.reference),
                "max_error": error,
                "tolerance": case.tolerance,
            }


def max_error(ours: Outputs, reference: Outputs) -> float:
    """Largest error over all tensors, each relative to the largest element of the reference. Raises on other shapes."""
    return max(_error(a, b) for a, b in zip(ours, reference, strict=True))


def _error(ours: Tensor, reference: Tensor) -> float:
    if ours.shape != reference.shape:
        raise ValueError(f"ours has shape {tuple(ours.shape)}, the reference {tuple(reference.shape)}")
    ours, reference = ours.detach().double(), reference.detach().double()
    difference, size = (ours - reference).abs().max().item(), reference.abs().max().item()
    return difference / size if size else difference
