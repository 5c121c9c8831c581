"""The best student of a run by the metric of ``TEST.BEST``, and the end of a run in which it gets no better.

``model_best.pth`` in ``OUTPUT_DIR`` holds the best student.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from kd2.distill import ConfigError, nearest

Number = TypeVar("Number", int, float)


class Best:
    """Follows one metric over the evaluations of a run; the largest value is the best.

    Args:
        metric: a name such as ``bbox/AP``; empty: nothing is followed.
        tests: names of the data sets that are scored.
        kept: ``kd2.best`` of the model_best.pth that a resumed run finds. One of another metric or other data sets
            does not count.
        patience: ``TEST.PATIENCE``; 0: a run never ends early.
        saved: ``kd2.best`` of the checkpoint from which a resumed run goes on: the evaluations behind it come again,
            also where model_best.pth is of one of them.

    Attributes:
        value: of model_best.pth.
        level, waited: the largest value so far, and the evaluations since.
    """

    def __init__(self, metric: str, tests: Sequence[str] = (), kept: Any = None, patience: int = 0, saved: Any = None):
        self.metric, self.tests, self.patience = metric, list(tests), patience
        self.value = self._known(kept, "value", -math.inf)
        self.level, self.waited = self._known(saved, "level", -math.inf), self._known(saved, "waited", 0)
        self._choices: list[str] = []

    @property
    def exhausted(self) -> bool:
        """Whether the run ends here: ``patience`` evaluations in a row were no better than ``level``."""
        return 0 < self.patience <= self.waited

    def beaten_by(self, scores: Mapping[str, float]) -> bool:
        """Whether ``scores`` of one evaluation are the best so far, whose student is to be saved then."""
        if not self.metric:
            return False
        if self.metric not in scores:
            self._choices = list(scores)
            return False
        self._choices = []
        found = float(scores[self.metric])
        self.level, self.waited = (found, 0) if found > self.level else (self.level, self.waited + 1)
        better = found > self.value
        if better:
            self.value = found
        return better

    def reason(self) -> str:
        """Why the run is ``exhausted``."""
        return f"TEST.PATIENCE: {self.metric} was not above {self.level:.5g} in {self.waited} evaluations"

    def entry(self) -> dict[str, Any]:
        """What a checkpoint says of the evaluations so far, as ``kd2.best``."""
        names = ("metric", "value", "tests", "level", "waited")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """At the end of a run: raises ConfigError when no evaluation had the metric, or none a finite value of it."""
        if self.metric and self.value == -math.inf:
            reason = nearest(self.metric, self._choices) if self._choices else "it was never a number"
            raise ConfigError(f"{self._found()} gave; {reason}")

    def check_names(self, names: Collection[str], complete: bool = False) -> None:
        """Raises ConfigError when the metric is not among the names of an evaluation's scores, and will never be.

        Args:
            names: empty where they are not known.
            complete: they are of the last evaluation; one on the way may score the first test set alone.
        """
        if self.metric and names and self.metric not in names and (complete or not self._comes_later(names)):
            raise ConfigError(f"{self._found()} gives; {nearest(self.metric, names)}")

    def _found(self) -> str:
        return f"TEST.BEST is {self.metric!r}, which no evaluation"

    def _comes_later(self, names: Collection[str]) -> bool:
        """Whether the metric is of a further test set, or with augmentation, of which ``names`` has nothing."""
        group = self.metric.split("/")[0]
        further = group.endswith("_TTA") or len(self.tests) > 1 and group in self.tests
        return further and not any(name.startswith(f"{group}/") for name in names)

    def _known(self, entry: Any, name: str, default: Number) -> Number:
        """``name`` of an entry that is of this metric and these data sets; ``default`` where it is no such number."""
        found = entry if isinstance(entry, Mapping) else {}
        same = (found.get("metric"), found.get("tests")) == (self.metric, self.tests)
        value = found.get(name)
        return value if same and isinstance(value, type(default)) else default
