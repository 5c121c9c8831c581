"""Where data sets lie: the data root, and paths below it that never lead out of the folder that was given."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from kd2.distill import ConfigError, DataError

_outside_allowed = ContextVar("names may lead out of the folder of a data set", default=False)
_HINT = "DATASETS.ALLOW_OUTSIDE: True allows it"


def data_root() -> str:
    """``$DETECTRON2_DATASETS``, as in Detectron2, or ``./datasets``."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def existing(name: str, entry: Mapping[str, str], key: str) -> str:
    """The path ``entry[key]`` of data set ``name``, below the data root.

    Raises:
        ConfigError: ``name`` has characters that a file name cannot have: evaluators name files by it.
        DataError: there is no such file or folder.
    """
    if "/" in name or os.sep in name or "\0" in name:
        raise ConfigError(f"DATASETS.CUSTOM: {name!r} is no name of a data set, expected one without separators")
    path = os.path.join(data_root(), entry[key])
    if not os.path.exists(path):
        raise DataError(
            f"data set {name!r}: {key} {path} does not exist; relative paths start at {data_root()!r} "
            "($DETECTRON2_DATASETS)"
        )
    return path


def text_lines(path: str) -> list[str]:
    """The lines of a UTF-8 text file without empty ones and outer blanks; raises DataError when it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error}") from None


def files_of(folder: str) -> set[str]:
    """The names in an image folder; raises DataError when it cannot be listed."""
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"image folder {folder}: {error.strerror}") from None


@contextlib.contextmanager
def outside_allowed(allowed: bool) -> Iterator[None]:
    """Inside the block names may lead out of their folder: ``DATASETS.ALLOW_OUTSIDE``."""
    token = _outside_allowed.set(allowed)
    try:
        yield
    finally:
        _outside_allowed.reset(token)


def inside(folder: str, name: Any, where: str) -> str:
    """The path of ``name``, which stands in a file of a data set, below ``folder``; it need not exist.

    Args:
        name: with sub folders or without. ``..``, an absolute path and a symbolic link must end below ``folder``,
            unless ``outside_allowed``.
        where: the file, or its entry, that holds the name, for errors.

    Raises:
        DataError: no text, or a name that leads out.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}: file name {name!r}, expected a text")
    path = os.path.join(folder, name)
    if _outside_allowed.get():
        return path
    away = os.path.isabs(name) or ".." in name
    if away and not _below(os.path.normpath(path), os.path.normpath(folder)):
        raise DataError(f"{where}: file name {name!r} leads out of {folder}; {_HINT}")
    at = os.path.realpath(path) if os.path.islink(path) else _real(os.path.dirname(path))
    if not _below(at, _real(folder)):
        raise DataError(f"{where}: {path} is a link to {os.path.realpath(path)}, out of {folder}; {_HINT}")
    return path


def files_below(folder: str) -> Iterator[str]:
    """Names of all files below ``folder``, relative to it, in sorted order; hidden ones are left out.

    Links to folders are followed.

    Raises:
        DataError: ``folder`` cannot be listed, a link leads out (see ``inside``) or back to a folder that holds it.
    """
    return _walked(folder, "")


def _walked(folder: str, at: str) -> Iterator[str]:
    here = os.path.join(folder, at)
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {here}: {error.strerror}") from None
    for entry in entries:
        name = os.path.join(at, entry.name)
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            inside(folder, name, folder)
        if not entry.is_dir():
            yield name
            continue
        if entry.is_symlink() and _below(os.path.realpath(here), os.path.realpath(entry.path)):
            raise DataError(f"{entry.path} is a link to a folder that holds it")
        yield from _walked(folder, name)


_real = functools.lru_cache(maxsize=4096)(os.path.realpath)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
