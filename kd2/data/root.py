"""Where data sets lie: the data root, paths below it, and image folders."""

import os
from collections.abc import Mapping

from kd2.distill import DataError


def data_root() -> str:
    """``$DETECTRON2_DATASETS``, as in Detectron2, or ``./datasets``."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def existing(name: str, entry: Mapping[str, str], key: str) -> str:
    """The path ``entry[key]`` of data set ``name``, below the data root; raises DataError when it is not there."""
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
