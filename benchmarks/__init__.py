"""Benchmarks of the losses: their fast forms beside the formulas of ``kd2.losses``, on equal inputs in one process.

A file of this folder named ``losses_*`` is a family of cases; its ``CASES`` maps a name to a function that builds the
case on a device.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.measure import median_ms, peak_mib, saved_mib, without_denormals

Outputs = Sequence[Tensor]
Computation = Callable[[], Outputs]


@dataclass(frozen=True)
class Case:
    """Two ways to compute the same.

    Attributes:
        ours, formula: no arguments; return the same tensors in the same order, values of a loss or masks.
        tolerance: largest error allowed, relative to the largest element of the formula's; 0 asks for equality.
        leaves: what the sum of the values is differentiated by; empty where nothing is.
    """

    ours: Computation
    formula: Computation
    tolerance: float
    leaves: Sequence[Tensor] = ()

    def finished(self, values: Computation) -> Computation:
        """Values, and behind them their gradients."""

        def both() -> Outputs:
            found = list(values())
            return [*found, *torch.autograd.grad(sum(found), self.leaves)] if self.leaves else found

        return both


def loss_cases() -> dict[str, Callable[[torch.device], Case]]:
    """Every case of every family by name."""
    cases: dict[str, Callable[[torch.device], Case]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("losses_"):
            cases |= importlib.import_module(f"{__name__}.{module.name}").CASES
    return cases


def rows(
    names: Sequence[str], threads: Sequence[int], device: torch.device, repeats: int = 10, compiled: bool = False
) -> Iterator[dict[str, str | int | float]]:
    """One row a case and number of threads; times are medians of at least ``repeats`` calls.

    Everything is measured without denormals, which a nearly one-hot attention is full of: they would slow the formula
    down further.

    Args:
        compiled: measure ``torch.compile`` of the formula too; compiling takes about a minute a case.
    """
    cases = loss_cases()
    for name in names:
        case = cases[name](device)
        ours, formula = case.finished(case.ours), case.finished(case.formula)
        calls = {"ours": ours, "formula": formula}
        if compiled:
            calls["compiled"] = case.finished(torch.compile(case.formula))
        with without_denormals():
            error = max_error(ours(), formula())
            for count in threads:
                times = dict(zip(calls, median_ms(list(calls.values()), count, repeats), strict=True))
                row: dict[str, str | int | float] = {"name": name, "threads": count}
                row |= {f"{way}_ms": time for way, time in times.items()}
                row["ratio"] = times["formula"] / times["ours"]
                row |= {f"{way}_mib": peak_mib(call, device) for way, call in calls.items()}
                row |= {f"{way}_saved_mib": saved_mib(calls[way]) for way in ("ours", "formula")}
                yield row | {"max_error": error, "tolerance": case.tolerance}


def max_error(ours: Outputs, formula: Outputs) -> float:
    """Largest error over all tensors, each relative to the largest element of the formula's. Raises on other shapes."""
    return max(_error(a, b) for a, b in zip(ours, formula, strict=True))


def _error(ours: Tensor, formula: Tensor) -> float:
    if ours.shape != formula.shape:
        raise ValueError(f"ours has shape {tuple(ours.shape)}, the formula {tuple(formula.shape)}")
    ours, formula = ours.detach().double(), formula.detach().double()
    difference, size = (ours - formula).abs().max().item(), formula.abs().max().item()
    return difference / size if size else difference
