"""Golden vectors: stored inputs with the outputs that a correct implementation computes from them.

A case is a pair NAME.npz and NAME.json. The arrays ``in.*`` and ``param.*`` go in; every ``out.*`` and ``grad.*`` is
computed again and compared under the tolerance of the json. A file of this folder whose name does not begin with an
underscore knows how to run some methods: its ``CASES`` maps the json's ``method`` to a function from a case to its
outputs.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kd2.distill import DataError, nearest
from tests.golden.runners._case import Case
from tests.golden.runners._tolerance import compare

Runner = Callable[[Case], dict[str, Tensor]]


@dataclass(frozen=True)
class Result:
    """What came of one case.

    Attributes:
        name: path of the pair without suffix.
        error: the largest error, as a multiple of what the case allows; at most 1 when all is well.
        raw: the absolute error at the same place.
        output: the array it is in.
        reason: why the case failed; empty when it passed.
    """

    name: str
    error: float
    raw: float
    output: str
    reason: str

    @property
    def ok(self) -> bool:
        return not self.reason


def verify(directories: Iterable[str | Path]) -> list[Result]:
    """Check every case below the directories, in the order of their names.

    Raises:
        DataError: a directory that does not exist or holds no case.
    """
    return [verify_case(stem) for directory in directories for stem in _stems(Path(directory))]


@functools.cache
def _runners() -> dict[str, Runner]:
    runners: dict[str, Runner] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            runners |= importlib.import_module(f"{__name__}.{module.name}").CASES
    return runners


def _stems(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; expected one with pairs NAME.npz and NAME.json")
    stems = {path.with_suffix("") for suffix in ("npz", "json") for path in directory.rglob(f"*.{suffix}")}
    if not stems:
        raise DataError(f"{directory} holds no pair NAME.npz and NAME.json")
    return sorted(stems)


def verify_case(stem: Path) -> Result:
    """Check the pair of this path without suffix."""
    runners = _runners()
    # A case that cannot be read or run is a failed case; the others are still checked.
    try:
        case = Case.load(stem)
        if case.method not in runners:
            raise DataError(f"nobody knows how to run method {case.method!r}; {nearest(case.method, runners)}")
        return _compared(case, runners[case.method](case))
    except Exception as error:
        return Result(str(stem), float("inf"), float("inf"), "", f"{type(error).__name__}: {error}")


def _compared(case: Case, found: Mapping[str, Tensor]) -> Result:
    missing = case.checked.keys() - found.keys()
    if missing:
        raise DataError(f"{sorted(missing)} were not computed")
    errors = {name: compare(case, name, found[name]) for name in case.checked}
    worst = max(errors, key=lambda name: errors[name].share)
    beyond = [name for name, error in errors.items() if error.share > 1]
    reason = f"beyond the tolerance: {', '.join(beyond)}" if beyond else ""
    return Result(case.name, errors[worst].share, errors[worst].raw, worst, reason)
