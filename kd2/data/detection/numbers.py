"""Numbers as annotation tools write them: as texts, missing, NaN."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def numbers(values: Sequence[Any]) -> np.ndarray:
    """float64 of numbers and of texts of numbers; NaN for everything else."""
    try:
        found = np.array(values, dtype=np.float64)
        if found.ndim == 1:
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def whole(value: Any) -> int | None:
    """A positive whole number, written as a number or a text; None for everything else."""
    found = _number(value)
    return int(found) if found > 0 and found.is_integer() else None


def flag(value: Any) -> bool | None:
    """0 or 1 as numbers, texts or booleans; missing and NaN are 0; None for everything else."""
    if value is None or value == "" or value != value:
        return False
    text = str(value).strip().lower()
    return {"false": False, "true": True}.get(text, {0.0: False, 1.0: True}.get(_number(text)))
