"""The best student of a run by the metric of ``TEST.BEST``; ``model_best.pth`` in ``OUTPUT_DIR`` holds it."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kd2.distill import ConfigError, nearest

logger = logging.getLogger(__name__)


class Best:
    """Follows one metric over the evaluations of a run; the largest value is the best.

    Args:
        metric: a name such as ``bbox/AP``; empty: nothing is followed.
        tests: names of the data sets that are scored.
        entry: ``kd2.best`` of the model_best.pth that a resumed run finds. One of another metric or other data sets
            does not count.
    """

    def __init__(self, metric: str, tests: Sequence[str] = (), entry: Any = None):
        self.metric, self.tests, self.value = metric, list(tests), -math.inf
        known = entry if isinstance(entry, Mapping) else {}
        same = (known.get("metric"), known.get("tests")) == (metric, self.tests)
        if same and isinstance(known.get("value"), (int, float)):
            self.value = float(known["value"])
        self._choices: list[str] = []

    def beaten_by(self, scores: Mapping[str, float]) -> bool:
        """Whether ``scores`` of one evaluation are the best so far, whose student is to be saved then."""
        if not self.metric:
            return False
        if self.metric not in scores:
            self._choices = list(scores)
            logger.warning("TEST.BEST: %s is not among the scores; %s", self.metric, nearest(self.metric, scores))
            return False
        better = scores[self.metric] > self.value
        if better:
            self.value = scores[self.metric]
        return better

    def entry(self) -> dict[str, Any]:
        """What model_best.pth says of itself, as ``kd2.best``."""
        return {"metric": self.metric, "value": self.value, "tests": self.tests}

    def check(self) -> None:
        """At the end of a run: raises ConfigError when no evaluation had the metric, or none a finite value of it."""
        if self.metric and self.value == -math.inf:
            reason = nearest(self.metric, self._choices) if self._choices else "it was never a number"
            raise ConfigError(f"TEST.BEST is {self.metric!r}, which no evaluation gave; {reason}")
