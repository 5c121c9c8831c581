"""How far a recomputed array may be from the stored one.

The json's ``tolerance`` comes in three forms: one rule ``{"rtol", "atol"}`` for all arrays; one rule for each precision
of the computation, ``{"float64": rule, "float32": rule}``; or, for each name or pattern of names, one rule or the word
"exact".
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from kd2.distill import DataError
from tests.golden.runners._case import Case

_EXACT = {"rtol": 0.0, "atol": 0.0}


@dataclass(frozen=True)
class Error:
    """Largest error of one array: as a share of what is allowed there, and raw."""

    share: float
    raw: float


def compare(case: Case, name: str, found: Tensor) -> Error:
    """Compare ``found`` with the stored array ``name``. Raises DataError when their shapes differ."""
    wanted = case.arrays[name]
    if found.shape != wanted.shape:
        raise DataError(f"{name} has shape {tuple(found.shape)}, stored is {tuple(wanted.shape)}")
    difference = (found.detach().double() - wanted.double()).abs()
    allowed = _allowed(case, name, found.dtype).expand_as(difference)
    share = torch.where(difference == 0, 0.0, difference / allowed).nan_to_num(nan=float("inf"), posinf=float("inf"))
    if share.numel() == 0:
        return Error(0.0, 0.0)
    worst = share.argmax()
    return Error(share.flatten()[worst].item(), difference.flatten()[worst].item())


def rule(case: Case, name: str, dtype: torch.dtype) -> dict[str, float]:
    """The rule of one array that was computed in ``dtype``. Whole numbers and masks are always exact."""
    tolerance = case.meta["tolerance"]
    if not case.arrays[name].is_floating_point():
        return _EXACT
    if "rtol" in tolerance or "atol" in tolerance:
        return tolerance
    precision = str(dtype).removeprefix("torch.")
    if precision in tolerance:
        return tolerance[precision]
    return _named_rule(tolerance, name)


def _named_rule(tolerance: dict[str, Any], name: str) -> dict[str, float]:
    """The pattern that fits most of the name; an array that no pattern fits gets the tightest rule with numbers."""
    fitting = [pattern for pattern in tolerance if _fits(name, pattern)]
    if not fitting:
        rules = [r for r in tolerance.values() if isinstance(r, dict)]
        return min(rules, key=lambda r: (r.get("rtol", 0.0), r.get("atol", 0.0)))
    found = tolerance[max(fitting, key=lambda pattern: len(pattern.rstrip("*")))]
    return found if isinstance(found, dict) else _EXACT


def _fits(name: str, pattern: str) -> bool:
    """``grad.*`` fits ``grad.student``; ``mask`` and ``out.mask`` fit ``out.mask``, ``out.mask.p3``, ``out.mask_x``."""
    full = pattern if pattern.startswith(("out.", "grad.")) else f"out.{pattern}"
    return name == full or fnmatchcase(name, full) or name.startswith((f"{full}.", f"{full}_"))


def _allowed(case: Case, name: str, dtype: torch.dtype) -> Tensor:
    limits, tolerance = rule(case, name, dtype), case.meta["tolerance"]
    size = case.arrays[name].double().abs()
    if name in case.meta.get("zero_up_to_rounding", ()):
        size = torch.stack([g.double().abs().amax() for k, g in case.arrays.items() if k.startswith("grad.")]).amax()
    elif ("metric" in tolerance or "rule" in tolerance) and size.numel():
        size = size.amax()  # these files define their error relative to the array's largest element
    return limits.get("rtol", 0.0) * size + limits.get("atol", 0.0)
