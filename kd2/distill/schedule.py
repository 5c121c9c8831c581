"""When a loss counts, and how much."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Weight of one loss over the run, in optimizer iterations.

    Zero before ``start``; a straight line from zero over the next ``ramp`` iterations; then ``weight``; zero again from
    ``stop`` on (-1: never). FGFI waits 400 iterations, for instance.
    """

    weight: float
    start: int = 0
    ramp: int = 0
    stop: int = -1

    def at(self, iteration: int) -> float:
        """The factor at ``iteration`` (0 is the first)."""
        if iteration < self.start or self.over(iteration):
            return 0.0
        if iteration - self.start < self.ramp:
            return self.weight * (iteration - self.start + 1) / (self.ramp + 1)
        return self.weight

    def over(self, iteration: int) -> bool:
        """True when the loss will never count again."""
        return 0 <= self.stop <= iteration
