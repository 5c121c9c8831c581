"""The pictures of a test set, and the road's own scores of what was found on them."""

import statistics
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from kd2.deploy.predictor import Found, Predicts

Scores = dict[str, float]


class TestSet(ABC):
    """A test set as a run evaluates it."""

    __test__ = False  # it is no test of pytest

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture(self, index: int) -> np.ndarray:
        """uint8 RGB (H, W, 3) in its original size; raises DataError, naming it, when it cannot be read."""

    @abstractmethod
    def take(self, index: int, found: Found) -> None:
        """Give the evaluator what ``Predicts.predict`` found on a picture."""

    @abstractmethod
    def scores(self) -> Scores:
        """Of everything that was taken in, by name, in percent."""


@dataclass(frozen=True)
class Evaluated:
    """Scores over a whole test set, and the median time of a picture in milliseconds."""

    scores: Scores
    latency: float


def evaluate(model: Predicts, data: TestSet) -> Evaluated:
    """Score a module or a file over a test set, picture by picture."""
    times = []
    for index in range(len(data)):
        picture = data.picture(index)
        start = time.perf_counter()
        (found,) = model.predict(picture)
        times.append(1000 * (time.perf_counter() - start))
        data.take(index, found)
    return Evaluated(data.scores(), statistics.median(times))
