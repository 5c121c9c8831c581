"""Label files to classes by a lookup table."""

import copy
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from kd2.data.images import DEEP_COLOR, opened, read_header
from kd2.distill import IGNORE_LABEL, DataError

logger = logging.getLogger(__name__)

# Classes are 0..MOST_CLASSES - 1.
MOST_CLASSES = 254
_REFUSED = 254


def packed(color: Collection[int]) -> int:
    """Red, green and blue (0..255) as one number."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


class Labels:
    """How the label files of one data set are read.

    Args:
        classes: value in the files -> class, 0 to 253. A value is an index of up to 16 bits, or a ``packed`` color.
        ignored: values that become ``IGNORE_LABEL`` (255).
        others: every other value becomes 255 too; otherwise it is an error.
        colors: the files hold colors; a palette is looked up.
    """

    def __init__(
        self, classes: Mapping[int, int], ignored: Collection[int] = (), others: bool = False, colors: bool = False
    ):
        self.colors, self.ignored = colors, sorted(ignored)
        self.allowed = sorted({*classes, *ignored})
        self.table = np.full(1 << (24 if colors else 16), IGNORE_LABEL if others else _REFUSED, np.uint8)
        self.table[list(ignored)] = IGNORE_LABEL
        self.table[list(classes)] = list(classes.values())

    def renumbered(self, places: Sequence[int]) -> "Labels":
        """The same files with class i as ``places[i]``."""
        new = np.arange(256, dtype=np.uint8)
        new[: len(places)] = places
        other = copy.copy(self)
        other.table = new[self.table]
        return other

    def read(self, path: str) -> np.ndarray:
        """The classes (H, W) of a label file as uint8, 255 where there is none.

        Raises:
            DataError: a missing or corrupt file, or a value that is not allowed; names the file and both.
        """
        with opened(path) as (picture, _):
            values = _colors(picture, path) if self.colors else _indices(picture, path)
        classes = self.table[values]
        refused = classes == _REFUSED
        if refused.any():
            found = [self._text(value) for value in np.unique(values[refused])]
            raise DataError(
                f"{path}: {refused.sum()} pixels hold {', '.join(found[:5])}{' ...' * (len(found) > 5)}, "
                f"allowed: {self._allowed_text()}"
            )
        return classes

    def of(self, record: Mapping) -> np.ndarray:
        """The classes (H, W) of a record: ``read`` of its label file, or 255 everywhere when it has none.

        Raises:
            DataError: see ``read``; or the label has another size than the record.
        """
        size = record["height"], record["width"]
        if "sem_seg_file_name" not in record:
            return np.full(size, IGNORE_LABEL, np.uint8)
        classes = self.read(record["sem_seg_file_name"])
        if classes.shape != size:
            raise DataError(size_text(record["sem_seg_file_name"], classes.shape, record["file_name"], size))
        return classes

    def ignored_text(self) -> str:
        """The values that have no class."""
        return ", ".join(map(self._text, self.ignored))

    def _text(self, value: int) -> str:
        return f"({value >> 16},{value >> 8 & 255},{value & 255})" if self.colors else str(value)

    def _allowed_text(self) -> str:
        if self.colors:
            return ", ".join(map(self._text, self.allowed))
        starts = [v for v in self.allowed if v - 1 not in self.allowed]
        ends = [v for v in self.allowed if v + 1 not in self.allowed]
        return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends))


def label_size(path: str) -> tuple[int, int]:
    """Height and width of a label file from its head.

    Raises:
        DataError: no image; or it is marked as turned or mirrored: programs differ in whether labels obey such a mark.
    """
    header = read_header(path)
    if header.depth == DEEP_COLOR:
        raise DataError(f"{path}: {header.depth}, expected indices of classes, or colors of 8 bits")
    if header.orientation != 1:
        raise DataError(f"{path}: a label with EXIF orientation {header.orientation}; store it upright and without one")
    return header.size


def size_text(label: str, label_size: tuple[int, int], image: str, size: tuple[int, int]) -> str:
    """The complaint about a label and an image of different (height, width)."""
    return f"{label}: {label_size[1]} x {label_size[0]} pixels, its image {image} has {size[1]} x {size[0]}"


def tell_absent(classes: Iterable[str], mean: str) -> None:
    """Warn of the classes that no label of a test set has, which the ``mean`` leaves out."""
    names = list(classes)
    if names:
        logger.warning("%s is the mean without %d classes that never occur: %s", mean, len(names), ", ".join(names))


def _colors(picture: Image.Image, path: str) -> np.ndarray:
    if picture.mode[0] in "IF":
        raise DataError(f"{path}: holds numbers of more than 8 bits, MAP names colors")
    rgb = np.asarray(picture.convert("RGB")).astype(np.int32)
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def _indices(picture: Image.Image, path: str) -> np.ndarray:
    values = np.asarray(picture)
    if values.ndim == 3:  # gray with alpha, or gray stored as color
        color = values[..., :3] if values.shape[2] > 2 else values[..., :1]
        if (color != color[..., :1]).any():
            raise DataError(f"{path}: holds colors, expected indices of classes (or a MAP with colors)")
        values = values[..., 0]
    if values.dtype.kind == "f" or values.dtype.itemsize > 2 and not 0 <= values.min() <= values.max() < 1 << 16:
        raise DataError(f"{path}: holds {values.min()} to {values.max()}, expected whole numbers of up to 16 bits")
    return values.astype(np.uint8) if values.dtype == bool else values
