"""What the reader of a data set has repaired, left out and refused: counted by kind, told once."""

import logging
from collections.abc import Iterator

logger = logging.getLogger(__name__)

REPAIRED, DROPPED, NOTED, REFUSED = "repaired", "dropped", "noted", "refused"
_MOST_SHOWN = 5


class Findings:
    """Counts of what was found in one data set, with the first places of each kind.

    Args:
        source: the file or folder of the data set, which begins every line.
    """

    def __init__(self, source: str):
        self.source = source
        self._places: dict[tuple[str, str], list[str]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def repaired(self, what: str, where: object) -> None:
        """Something was read as it must have been meant: ``what`` is its kind, ``where`` one id, name or file."""
        self._add(REPAIRED, what, where)

    def dropped(self, what: str, where: object) -> None:
        """Something cannot be used and was left out."""
        self._add(DROPPED, what, where)

    def noted(self, what: str, where: object) -> None:
        """Something was read as it stands, and a user would want to know of it."""
        self._add(NOTED, what, where)

    def refused(self, what: str, where: object) -> None:
        """Something stops a run that comes to it."""
        self._add(REFUSED, what, where)

    def rows(self) -> Iterator[tuple[str, str, int, str]]:
        """``(repaired | dropped | noted | refused, what, count, first places)`` of each kind, by appearance."""
        for (verdict, what), count in self._counts.items():
            places = self._places[verdict, what]
            yield verdict, what, count, ", ".join(places) + (", ..." if count > len(places) else "")

    def tell(self) -> None:
        """One warning a kind in the log."""
        for verdict, what, count, places in self.rows():
            logger.warning("%s: %s: %s (%d: %s)", self.source, verdict, what, count, places)

    def _add(self, verdict: str, what: str, where: object) -> None:
        key = verdict, what
        self._counts[key] = self._counts.get(key, 0) + 1
        places = self._places.setdefault(key, [])
        if len(places) < _MOST_SHOWN:
            places.append(str(where))
