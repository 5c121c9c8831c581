"""What distillation was worth: recovery, and the paired difference over seeds with its 95 % interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kd2.distill import DataError


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the differences of two kinds of runs, paired by seed.

    Attributes:
        mean: in the unit of the scores (points for AP and mIoU).
        seeds: the number of pairs.
        interval: both ends of the 95 % interval of the mean by Student's t with ``seeds - 1`` degrees of freedom;
            None for one pair, which has no spread.
    """

    mean: float
    seeds: int
    interval: tuple[float, float] | None

    @property
    def distinguishable(self) -> bool:
        """Whether there is an interval and it does not hold 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def __str__(self) -> str:
        """The words of every report: ``+5.8 (95 % interval +4.1 to +7.5 over 3 seeds)``."""
        if self.interval is None:
            return f"{self.mean:+.1f} (no interval: one seed has no spread)"
        words = f"{self.mean:+.1f} (95 % interval {self.interval[0]:+.1f} to {self.interval[1]:+.1f}"
        return f"{words} over {self.seeds} seeds)" + ("" if self.distinguishable else ", not distinguishable")


def paired_difference(scores: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference:
    """The difference ``scores - baseline``, each a score by seed; seeds that only one of them has are left out.

    Raises:
        DataError: no seed is in both, or a score of a common seed is no finite number.
    """
    common = sorted(scores.keys() & baseline.keys())
    if not common:
        raise DataError(f"seeds {sorted(scores)} and {sorted(baseline)}: expected at least one in both")
    differences = [scores[seed] - baseline[seed] for seed in common]
    if not all(map(math.isfinite, differences)):
        raise DataError(f"scores of the seeds {common}: expected finite numbers")
    count = len(differences)
    mean = math.fsum(differences) / count
    if count == 1:
        return PairedDifference(mean, 1, None)
    deviation = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (count - 1))
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return PairedDifference(mean, count, (mean - half, mean + half))


def recovery(distilled: float, alone: float, teacher: float) -> float | None:
    """The part of the gap to the teacher that distillation closes, ``(distilled - alone) / (teacher - alone)``.

    1 is the teacher's score, below 0 is harm; None where the teacher is not better than the student alone.
    """
    return (distilled - alone) / (teacher - alone) if teacher > alone else None


def t_quantile(freedom: int, probability: float = 0.95) -> float:
    """The t with ``probability`` of Student's distribution between -t and t, for ``freedom`` >= 1 degrees of freedom.

    By bisection of the closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4); within 1e-9 of the exact value.
    """
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(freedom))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability_within(middle, freedom) < probability else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _probability_within(angle: float, freedom: int) -> float:
    cos, total = math.cos(angle), 0.0
    term = cos if freedom % 2 else 1.0
    for i in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= cos * cos * i / (i + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if freedom % 2 else total
