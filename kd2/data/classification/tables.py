"""Classification data in arrays and tables: NumPy archives and Parquet files of encoded images."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd2.data.classification.image_dataset import ImageDataset, checked
from kd2.distill import ConfigError, DataError

# The arrays of a NumPy archive and what kinds of values each may have.
_ARRAYS = {"image": ("u", "uint8"), "offset": ("iu", "integers"), "label": ("iu", "integers"), "name": ("SU", "texts")}
_MOST_CLASSES = 1 << 20


def read_npz(name: str, path: str) -> ImageDataset:
    """A NumPy archive: ``image`` uint8, all encoded files one after the other; ``offset`` (n + 1), where each begins;
    ``label`` (n,); and, when present, ``name`` (n,), ``CLASS/file`` as bytes or text.

    Raises:
        DataError: no archive of such arrays; names the file and the array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive.files if key in _ARRAYS}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no NumPy archive of plain arrays: {error}") from None
    missing = [key for key in ("image", "offset", "label") if key not in content]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}, expected the arrays image, offset and label")
    for key, array in content.items():
        _check_array(array, key, path)
    image, offset, labels = content["image"], content["offset"].astype(np.int64), content["label"].astype(np.int64)
    if len(offset) != len(labels) + 1 or offset[0] or (np.diff(offset) < 0).any() or offset[-1] != len(image):
        raise DataError(
            f"{path}: offset has {len(offset)} entries up to {offset.max(initial=0)}, expected {len(labels) + 1} "
            f"ascending ones from 0 up to {len(image)}, the length of image"
        )
    names = _names(content.get("name"), len(labels), path)
    classes = _classes_of(names, labels, path) if "name" in content else _numbers(labels, path)

    def encoded(index: int) -> io.BytesIO:
        return io.BytesIO(image[offset[index] : offset[index + 1]])

    return checked(ImageDataset(name, classes, labels, names, encoded, path))


def read_parquet(name: str, path: str) -> ImageDataset:
    """A Parquet file, or a folder of them, in the layout of Hugging Face: ``image`` (bytes, or a struct with ``bytes``)
    and ``label``. Class names are read from the file's metadata, otherwise they are the numbers.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: a column is missing or holds something else.
    """
    try:
        from pyarrow import ArrowException, parquet, types
    except ModuleNotFoundError:
        raise ConfigError(f"DATASETS.CUSTOM.{name}: PARQUET needs the package pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: no Parquet file: {error}") from None
    missing = {"image", "label"} - set(table.column_names)
    if missing:
        found = ", ".join(table.column_names)
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}; its columns: {found}")
    images, labels = table["image"], table["label"]
    if not types.is_integer(labels.type) or labels.null_count:
        raise DataError(f"{path}: column label has {labels.type} and {labels.null_count} empty rows, expected integers")
    labels = labels.to_numpy().astype(np.int64)

    def encoded(index: int) -> io.BytesIO:
        value = images[index].as_py()
        return io.BytesIO(value["bytes"] if isinstance(value, dict) else value)

    classes = _hugging_face_names(table.schema.metadata or {}, path) or _numbers(labels, path)
    return checked(ImageDataset(name, classes, labels, [f"row {i}" for i in range(len(labels))], encoded, path))


def _check_array(array: np.ndarray, key: str, path: str) -> None:
    kinds, text = _ARRAYS[key]
    if array.ndim != 1 or array.dtype.kind not in kinds or (key == "image" and array.itemsize != 1):
        raise DataError(f"{path}: {key} has {array.dtype} of shape {array.shape}, expected a row of {text}")


def _names(given: np.ndarray | None, count: int, path: str) -> list[str]:
    if given is None:
        return [str(number) for number in range(count)]
    if len(given) != count:
        raise DataError(f"{path}: name has {len(given)} entries, label {count}")
    try:
        return [x.decode() if isinstance(x, bytes) else str(x) for x in given.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: name is not in UTF-8: {error}") from None


def _classes_of(names: list[str], labels: np.ndarray, path: str) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for text, label in zip(names, labels.tolist()):
        folder = text.rpartition("/")[0]
        if not folder:
            raise DataError(f"{path}: name has {text!r}, expected CLASS/file")
        if found.setdefault(label, folder) != folder:
            raise DataError(f"{path}: label {label} belongs to {found[label]!r} and, at {text!r}, to {folder!r}")
    return tuple(found.get(int(label), label) for label in _numbers(labels, path))


def _numbers(labels: np.ndarray, path: str) -> tuple[str, ...]:
    if labels.max(initial=0) >= _MOST_CLASSES:
        raise DataError(f"{path}: label {labels.max()}, expected numbers of classes, below {_MOST_CLASSES}")
    return tuple(map(str, range(int(labels.max(initial=-1)) + 1)))


def _hugging_face_names(about: Mapping[bytes, bytes], path: str) -> tuple[str, ...]:
    """The class names that the metadata of a file hold; none when they hold none."""
    node: Any = None
    try:
        node = json.loads(about.get(b"huggingface", b"{}"))
        for key in ("info", "features", "label"):
            node = node.get(key, {})
        names = node.get("names") or ()
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: its metadata of Hugging Face cannot be read: {error}") from None
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise DataError(f"{path}: its metadata name the classes {names!r}, expected a list of texts")
    return tuple(names)
