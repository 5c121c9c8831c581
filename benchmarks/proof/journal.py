"""The journal of a data set, ``benchmarks/results/DATA.jsonl``: a line for every run's start and one for its end.

Several processes may write it at once. Nothing in it is ever changed.
"""

import contextlib
import fcntl
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd2.distill import ConfigError

STARTED, FINISHED, FAILED, INTERRUPTED, MEASURED = "started", "finished", "failed", "interrupted", "measured"
Record = dict[str, Any]


class Journal:
    """Reads and appends records.

    Args:
        path: the file; it need not exist.

    Raises:
        ConfigError: on reading, a line that is no record; names it.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, record: Record) -> None:
        """Write one line at the end, whole, behind those of other processes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(self._break() + json.dumps(_plain(record)) + "\n")

    def records(self, **wanted: Any) -> list[Record]:
        """The records in whose keys the values are ``wanted``, in the order of the file."""
        return [x for x in self._lines() if all(x.get(key) == value for key, value in wanted.items())]

    def ended(self, road: str, fingerprint: str, seed: int) -> Record | None:
        """The line that a run finished, or else that it failed; None where it never ended, or by a signal."""
        found = self.records(road=road, hash=fingerprint, seed=seed)
        ends = {x["status"]: x for x in reversed(found)}
        return ends.get(FINISHED) or ends.get(FAILED)

    def _break(self) -> str:
        """What ends the last line where its writer did not."""
        text = self.path.read_bytes()
        return "" if not text or text.endswith(b"\n") else "\n"

    def _lines(self) -> Iterator[Record]:
        if self.path.exists():
            for number, line in enumerate(self.path.read_text().splitlines(), 1):
                yield self._record(line, number)

    def _record(self, line: str, number: int) -> Record:
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
            if isinstance(found, dict) and {"status", "road", "hash", "seed"} <= found.keys():
                return found
        raise ConfigError(f"{self.path}, line {number}, is no record of a run: {line[:60]!r}; mend or remove it")


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: nan becomes null."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
