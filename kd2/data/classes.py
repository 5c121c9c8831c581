"""Class names are what a class is: data sets, checkpoints and teachers meet by them, never by their numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd2.distill import ConfigError, DataError

_SHOWN = 10


def aligned(names: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    """For each of ``names`` its place in ``wanted``, which may have more.

    Args:
        where: whose names they are, for errors.

    Raises:
        DataError: a name that is not in ``wanted``.

    Example:
        >>> aligned(["dog", "cat"], ["cat", "dog", "bird"], "val.json")
        [1, 0]
    """
    places = {name: index for index, name in enumerate(wanted)}
    missing = [name for name in names if name not in places]
    if missing:
        raise DataError(
            f"{where} has the classes {shown(names)}, the run's are {shown(wanted)}: there is no {missing[0]!r}; "
            "CLASSES in its entry of DATASETS.CUSTOM selects, renames and merges classes"
        )
    return [places[name] for name in names]


def common(sets: Iterable[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """The classes of a run: those of the first data set that has the most; the names of all others are among them.

    Args:
        sets: of every data set where it comes from, and its class names.

    Raises:
        DataError: see ``aligned``.
    """
    sets = list(sets)
    _, most = max(sets, key=lambda pair: len(pair[1]))
    for where, names in sets:
        aligned(names, most, where)
    return tuple(most)


def selection(choice: Any, key: str) -> dict[str, str]:
    """``CLASSES`` of a data set as name in the file -> class; classes stand in the order of their first appearance.

    Args:
        choice: a list of names, or such a mapping already, which may rename and merge.
        key: the config key, for errors.

    Raises:
        ConfigError: neither of the two, no name at all, a name given twice.
    """
    pairs = list(choice.items()) if isinstance(choice, Mapping) else None
    if isinstance(choice, (list, tuple)):
        pairs = [(name, name) for name in choice]
    if any(isinstance(name, bool) for pair in pairs or [] for name in pair):
        raise ConfigError(f"{key} has True or False: YAML reads yes, no, on and off so; write the names in quotes")
    names = [(str(name).strip(), str(to).strip()) for name, to in pairs or [] if not isinstance(to, (Mapping, list))]
    if not names or len(names) != len(pairs or []) or len(dict(names)) != len(names) or "" in {*sum(names, ())}:
        raise ConfigError(
            f"{key} is {choice!r}, expected a list of different names, or a group: name in the file -> class"
        )
    return dict(names)


def refuse_strangers(chosen: Iterable[str], found: Iterable[str], source: str) -> None:
    """Raises DataError when none of the names that ``CLASSES`` chose is in the file; a file without names fits all."""
    chosen, found = list(chosen), list(found)
    if chosen and found and not set(chosen) & set(found):
        raise DataError(f"{source}: CLASSES has {shown(chosen)}, but the names there are {shown(found)}")


def same_order(a: Sequence[str], b: Sequence[str], of_a: str, of_b: str) -> None:
    """Raises ConfigError naming the first difference of two lists of classes. An empty list is unknown, and fits."""
    if not a or not b:
        return
    if len(a) != len(b):
        raise ConfigError(f"{of_a} has {len(a)} classes ({shown(a)}), {of_b} has {len(b)} ({shown(b)})")
    for number, (x, y) in enumerate(zip(a, b)):
        if x != y:
            raise ConfigError(f"{of_a} and {of_b} differ in class {number}: {x!r} and {y!r}; their order counts")


def shown(names: Sequence[str]) -> str:
    """The first names in one line."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
