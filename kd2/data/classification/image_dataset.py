"""Classification data sets: encoded images with a class each, read one image at a time.

Folders and ZIP files hold ``CLASS/.../image``; classes are sorted by name.
"""

import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from kd2.data.classes import aligned, common
from kd2.data.findings import Findings
from kd2.data.images import ENDINGS, ImageSource, broken_named, read_header, read_image
from kd2.data.root import files_below, files_of
from kd2.distill import DataError


@dataclass(frozen=True)
class ImageDataset:
    """A data set of images with one class each.

    Attributes:
        classes: names in the order of the labels.
        labels: (n,) int64.
        names: what errors call each image.
        open: image i as something that ``read_image`` takes.
        source: file or folder, for errors.
        pixel_range: see ``read_image``.
        findings: what the reader has to say of the files.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    names: list[str]
    open: Callable[[int], ImageSource]
    source: str
    pixel_range: Sequence[float] = ()
    findings: Findings = field(default_factory=lambda: Findings(""))

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int) -> Tensor:
        """Image ``index`` as (3, H, W) uint8, RGB, upright. Raises DataError naming it when it does not decode."""
        called = f"{self.source}: image {index} ({self.names[index]})"
        with broken_named(called):
            return torch.from_numpy(read_image(self.open(index), self.pixel_range, called)).permute(2, 0, 1)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of image ``index`` as stored, from its header alone; raises DataError like ``pixels``."""
        called = f"{self.source}: image {index} ({self.names[index]})"
        with broken_named(called):
            return read_header(self.open(index), called).stored


def checked(data: ImageDataset) -> ImageDataset:
    """``data``; raises DataError when it has no image, a class has none, or two classes have one name."""
    if not len(data):
        raise DataError(f"{data.source}: the data set has no images")
    if data.labels.min() < 0 or data.labels.max() >= len(data.classes):
        raise DataError(
            f"{data.source}: labels reach from {data.labels.min()} to {data.labels.max()}, "
            f"expected 0 to {len(data.classes) - 1}"
        )
    for name, count in Counter(data.classes).items():
        if count > 1:
            raise DataError(f"{data.source}: {count} classes have the name {name!r}")
    counts = np.bincount(data.labels, minlength=len(data.classes))
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


def of_one_run(sets: Sequence[ImageDataset], classes: Sequence[str] = ()) -> list[ImageDataset]:
    """Data sets with one list of classes.

    Args:
        classes: those of the run; empty: the longest list of the sets (``kd2.data.classes.common``).

    Raises:
        DataError: names that are not among those of the run.
    """
    wanted = tuple(classes) or common((data.source, data.classes) for data in sets)
    places = [np.array(aligned(data.classes, wanted, data.source), dtype=np.int64) for data in sets]
    return [replace(data, classes=wanted, labels=place[data.labels]) for data, place in zip(sets, places)]


def read_folder(name: str, folder: str) -> ImageDataset:
    """``folder/CLASS/.../image``."""
    classes = sorted(entry for entry in files_of(folder) if os.path.isdir(os.path.join(folder, entry)))
    return _by_class(name, folder, files_below(folder), classes, lambda file: os.path.join(folder, file))


def read_zip(name: str, path: str) -> ImageDataset:
    """``CLASS/.../image`` inside a ZIP file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path}: no ZIP file that can be read: {error}") from None
    classes = sorted({entry.split("/")[0] for entry in names if "/" in entry})
    opened: dict[int, zipfile.ZipFile] = {}

    def member(file: str) -> io.BytesIO:
        if os.getpid() not in opened:  # a worker must not share the file position of its parent
            opened[os.getpid()] = zipfile.ZipFile(path)
        return io.BytesIO(opened[os.getpid()].read(file))

    return _by_class(name, path, names, classes, member)


def _by_class(
    name: str, source: str, files: Iterable[str], classes: list[str], open_: Callable[[str], ImageSource]
) -> ImageDataset:
    """What a system or an archiver hides is left out, and other files that are no pictures by their ending are told."""
    findings = Findings(source)
    numbers = {c: i for i, c in enumerate(c for c in classes if not _hidden(c))}
    kept = []
    for file in sorted(files):
        parts = file.replace(os.sep, "/").split("/")
        if any(map(_hidden, parts)) or parts[0] not in numbers or not parts[-1]:
            continue
        if file.lower().endswith(ENDINGS):
            kept.append(file)
        else:
            findings.dropped(f"file is left out, pictures end in {', '.join(ENDINGS)}", file)
    labels = np.array([numbers[f.replace(os.sep, "/").split("/")[0]] for f in kept], dtype=np.int64)
    data = ImageDataset(name, tuple(numbers), labels, kept, lambda i: open_(kept[i]), source, findings=findings)
    return checked(data)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"
