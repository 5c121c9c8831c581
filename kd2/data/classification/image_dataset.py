"""Classification data sets: folders, ZIP, npz and Parquet files of encoded images, read one image at a time.

Folders and ZIP files hold ``CLASS/.../image``; classes are sorted by name. The npz and Parquet layouts stand at
``read_npz`` and ``read_parquet``.
"""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kd2.data.images import ImageSource, read_image
from kd2.data.root import files_below, files_of
from kd2.distill import ConfigError, DataError

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
# What PIL and the archives raise on broken or oversized images.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageDataset:
    """A data set of images with one class each.

    Attributes:
        classes: names in the order of the labels.
        labels: (n,) int64.
        names: what errors call each image.
        open: image i as something that ``read_image`` takes.
        source: file or folder, for errors.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    names: list[str]
    open: Callable[[int], ImageSource]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int) -> Tensor:
        """Image ``index`` as (3, H, W) uint8, RGB, upright. Raises DataError naming it when it does not decode."""
        try:
            return torch.from_numpy(read_image(self.open(index))).permute(2, 0, 1)
        except _UNREADABLE as error:
            text = f"{self.source}: image {index} ({self.names[index]}) cannot be decoded: {error}"
            raise DataError(text) from None

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image ``index`` as stored, from its header alone; raises DataError like ``pixels``."""
        try:
            source = self.open(index)
            with source if isinstance(source, Image.Image) else Image.open(source) as image:
                return image.height, image.width
        except _UNREADABLE as error:
            raise DataError(f"{self.source}: image {index} ({self.names[index]}) has no header: {error}") from None


def checked(data: ImageDataset) -> ImageDataset:
    """``data``; raises DataError when it has no image, or a class has none."""
    if not len(data):
        raise DataError(f"{data.source}: the data set has no images")
    counts = np.bincount(data.labels, minlength=len(data.classes))
    if data.labels.min() < 0 or len(counts) > len(data.classes):
        raise DataError(
            f"{data.source}: labels reach from {data.labels.min()} to {data.labels.max()}, "
            f"expected 0 to {len(data.classes) - 1}"
        )
    empty = [name for name, count in zip(data.classes, counts) if not count]
    if empty:
        raise DataError(f"{data.source}: no image of class {', '.join(empty[:5])}; remove it or add images")
    return data


def joined(parts: list[ImageDataset]) -> ImageDataset:
    """Several data sets as one, in this order; they agree on the classes."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part) for part in parts])

    def open_(index: int) -> ImageSource:
        part = int(np.searchsorted(ends, index, side="right"))
        return parts[part].open(index - (int(ends[part - 1]) if part else 0))

    return replace(
        parts[0],
        name="+".join(p.name for p in parts),
        labels=np.concatenate([p.labels for p in parts]),
        names=[name for p in parts for name in p.names],
        open=open_,
        source=", ".join(p.source for p in parts),
    )


def read_folder(name: str, folder: str) -> ImageDataset:
    """``folder/CLASS/.../image``."""
    classes = sorted(entry for entry in files_of(folder) if os.path.isdir(os.path.join(folder, entry)))
    return _by_class(name, folder, files_below(folder), classes, lambda file: os.path.join(folder, file))


def read_zip(name: str, path: str) -> ImageDataset:
    """``CLASS/.../image`` inside a ZIP file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: no ZIP file: {error}") from None
    classes = sorted({entry.split("/")[0] for entry in names if "/" in entry})
    opened: dict[int, zipfile.ZipFile] = {}

    def member(file: str) -> io.BytesIO:
        if os.getpid() not in opened:  # a worker must not share the file position of its parent
            opened[os.getpid()] = zipfile.ZipFile(path)
        return io.BytesIO(opened[os.getpid()].read(file))

    return _by_class(name, path, names, classes, member)


def read_npz(name: str, path: str) -> ImageDataset:
    """A NumPy archive: ``image`` uint8, all encoded files one after the other; ``offset`` (n + 1), where each begins;
    ``label`` (n,); and, when present, ``name`` (n,), ``CLASS/file`` as bytes or text.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive.files if key in ("image", "offset", "label", "name")}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no NumPy archive of plain arrays: {error}") from None
    missing = [key for key in ("image", "offset", "label") if key not in content]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}, expected the arrays image, offset and label")
    image, offset, labels = content["image"], content["offset"], content["label"].astype(np.int64)
    if len(offset) != len(labels) + 1 or (np.diff(offset) < 0).any() or offset[-1] != len(image):
        raise DataError(
            f"{path}: offset has {len(offset)} entries up to {offset[-1]}, expected {len(labels) + 1} ascending ones "
            f"up to {len(image)}, the length of image"
        )
    names = [x.decode() if isinstance(x, bytes) else str(x) for x in content.get("name", range(len(labels)))]
    classes = _classes_of(names, labels, path) if "name" in content else _numbers(labels)
    data = ImageDataset(name, classes, labels, names, lambda i: io.BytesIO(image[offset[i] : offset[i + 1]]), path)
    return checked(data)


def read_parquet(name: str, path: str) -> ImageDataset:
    """A Parquet file, or a folder of them, in the layout of Hugging Face: ``image`` (bytes, or a struct with ``bytes``)
    and ``label``. Class names are read from the file's metadata, otherwise they are the numbers.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: a column is missing.
    """
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError:
        raise ConfigError(f"DATASETS.CUSTOM.{name}: PARQUET needs the package pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise DataError(f"{path}: no Parquet file: {error}") from None
    missing = {"image", "label"} - set(table.column_names)
    if missing:
        found = ", ".join(table.column_names)
        raise DataError(f"{path} has no column {', '.join(sorted(missing))}; its columns: {found}")
    images, labels = table["image"], table["label"].to_numpy().astype(np.int64)

    def encoded(index: int) -> io.BytesIO:
        value = images[index].as_py()
        return io.BytesIO(value["bytes"] if isinstance(value, dict) else value)

    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    found = about.get("info", {}).get("features", {}).get("label", {}).get("names")
    classes = tuple(found) if found else _numbers(labels)
    return checked(ImageDataset(name, classes, labels, [f"row {i}" for i in range(len(labels))], encoded, path))


def _by_class(
    name: str, source: str, files: Iterable[str], classes: list[str], open_: Callable[[str], ImageSource]
) -> ImageDataset:
    numbers = {c: i for i, c in enumerate(classes)}
    kept = sorted(f for f in files if f.lower().endswith(_ENDINGS) and f.replace(os.sep, "/").split("/")[0] in numbers)
    labels = np.array([numbers[f.replace(os.sep, "/").split("/")[0]] for f in kept], dtype=np.int64)
    return checked(ImageDataset(name, tuple(classes), labels, kept, lambda i: open_(kept[i]), source))


def _classes_of(names: list[str], labels: np.ndarray, path: str) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for text, label in zip(names, labels.tolist()):
        folder = text.rpartition("/")[0]
        if found.setdefault(label, folder) != folder:
            raise DataError(f"{path}: label {label} belongs to {found[label]!r} and, at {text!r}, to {folder!r}")
    return tuple(found.get(label, str(label)) for label in range(max(found, default=-1) + 1))


def _numbers(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))
