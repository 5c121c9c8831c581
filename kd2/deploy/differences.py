"""How far an exported file is from its student in PyTorch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kd2.deploy.predictor import Found

# Two detections are one and the same when they have one label, and boxes and scores at most so far apart.
_PIXELS, _SCORE = 1.0, 0.01


@dataclass
class Differences:
    """The largest differences so far.

    Attributes:
        largest: output -> the largest difference of a number: ``boxes`` in pixels, ``scores`` and ``masks`` on a scale
            of 0 to 1.
        detections: how many PyTorch and the file found, together.
        alone: how many of them have no partner on the other side, and the highest score among these. Beside a
            threshold, or beside a box of nearly the same score, the last bit decides what is found.
        pictures: how many were compared.
    """

    largest: dict[str, float] = field(default_factory=dict)
    detections: int = 0
    alone: int = 0
    alone_score: float = 0.0
    pictures: int = 0

    def add(self, ours: Found, theirs: Found) -> None:
        """Take in what PyTorch and the file found on one picture."""
        self.pictures += 1
        if "boxes" in ours:
            pairs = _partners(ours, theirs)
            for found, own in zip((ours, theirs), pairs):
                left = np.setdiff1d(np.arange(len(found["scores"])), own)
                self.detections, self.alone = self.detections + len(found["scores"]), self.alone + len(left)
                self.alone_score = max([self.alone_score, *found["scores"][left].tolist()])
            ours, theirs = ({name: x[own] for name, x in side.items()} for side, own in zip((ours, theirs), pairs))
        for name in ours.keys() - {"labels"}:
            apart = float(np.abs(ours[name] - theirs[name]).max(initial=0.0))
            self.largest[name] = max(self.largest.get(name, 0.0), apart)

    def rows(self) -> Iterable[tuple[str, str]]:
        """As lines of a table."""
        units = {"boxes": "boxes, pixels"}
        yield from ((units.get(name, name), f"{value:.1e}") for name, value in sorted(self.largest.items()))
        if self.detections:
            worst = f", the best with score {self.alone_score:.3f}" if self.alone else ""
            yield "without a partner", f"{self.alone} of {self.detections} detections{worst}"

    def small(self) -> bool:
        """Whether rounding explains them: numbers within 0.01, and at most one detection in two hundred alone."""
        return max(self.largest.values(), default=0.0) <= 0.01 and self.alone <= 0.005 * self.detections


def _partners(ours: Found, theirs: Found) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the detections that both sides have, paired: the nearest first."""
    pixels = np.abs(ours["boxes"][:, None] - theirs["boxes"][None]).max(2, initial=0.0)
    scores = np.abs(ours["scores"][:, None] - theirs["scores"][None])
    same = (ours["labels"][:, None] == theirs["labels"][None]) & (pixels <= _PIXELS) & (scores <= _SCORE)
    apart = np.where(same, pixels / _PIXELS + scores / _SCORE, np.inf)
    pairs = []
    for place in np.argsort(apart, axis=None, kind="stable")[: int(same.sum())]:
        i, j = np.unravel_index(place, apart.shape)
        if np.isfinite(apart[i, j]):
            pairs.append((i, j))
            apart[i, :] = apart[:, j] = np.inf
    found = np.array(pairs, dtype=int).reshape(-1, 2)
    return found[:, 0], found[:, 1]
