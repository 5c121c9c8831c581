"""Label files to classes by a lookup table."""

from collections.abc import Collection, Mapping

import numpy
from PIL import Image

from kd2.core import DataError

# What a pixel without a class becomes, whatever the file holds.
IGNORE = 255
# Classes are 0..MOST_CLASSES - 1.
MOST_CLASSES = 254
_REFUSED = 254


def packed(colour: Collection[int]) -> int:
    """Red, green and blue (0..255) as one number."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


class Labels:
    """How the label files of one data set are read.

    Args:
        classes: value in the files -> class, 0 to 253. A value is an index of up to 16 bits, or a ``packed`` colour.
        ignored: values that become 255.
        others: every other value becomes 255 too; otherwise it is an error.
        colours: the files hold colours; a palette is looked up.
    """

    def __init__(
        self, classes: Mapping[int, int], ignored: Collection[int] = (), others: bool = False, colours: bool = False
    ):
        self.colours = colours
        self.allowed = sorted({*classes, *ignored})
        self.table = numpy.full(1 << (24 if colours else 16), IGNORE if others else _REFUSED, numpy.uint8)
        self.table[list(ignored)] = IGNORE
        self.table[list(classes)] = list(classes.values())

    def read(self, path: str) -> numpy.ndarray:
        """The classes (H, W) of a label file as uint8, 255 where there is none.

        Raises:
            DataError: a missing or corrupt file, or a value that is not allowed; names the file and both.
        """
        try:
            with Image.open(path) as picture:
                picture.load()
        except FileNotFoundError:
            raise DataError(f"{path}: no such label file") from None
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: not a readable label image: {error}") from error
        values = _colours(picture) if self.colours else _indices(picture, path)
        classes = self.table[values]
        refused = classes == _REFUSED
        if refused.any():
            found = [self._text(value) for value in numpy.unique(values[refused])]
            raise DataError(
                f"{path}: {refused.sum()} pixels hold {', '.join(found[:5])}{' ...' * (len(found) > 5)}, "
                f"allowed: {self._allowed_text()}"
            )
        return classes

    def of(self, record: Mapping) -> numpy.ndarray:
        """The classes (H, W) of a record: ``read`` of its label file, or 255 everywhere when it has none.

        Raises:
            DataError: see ``read``; or the label has another size than the record.
        """
        size = record["height"], record["width"]
        if "sem_seg_file_name" not in record:
            return numpy.full(size, IGNORE, numpy.uint8)
        classes = self.read(record["sem_seg_file_name"])
        if classes.shape != size:
            raise DataError(size_text(record["sem_seg_file_name"], classes.shape, record["file_name"], size))
        return classes

    def _text(self, value: int) -> str:
        return f"({value >> 16},{value >> 8 & 255},{value & 255})" if self.colours else str(value)

    def _allowed_text(self) -> str:
        if self.colours:
            return ", ".join(map(self._text, self.allowed))
        starts = [v for v in self.allowed if v - 1 not in self.allowed]
        ends = [v for v in self.allowed if v + 1 not in self.allowed]
        return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends))


def size_text(label: str, label_size: tuple[int, int], image: str, size: tuple[int, int]) -> str:
    """The complaint about a label and an image of different (height, width)."""
    return f"{label}: {label_size[1]} x {label_size[0]} pixels, its image {image} has {size[1]} x {size[0]}"


def _colours(picture: Image.Image) -> numpy.ndarray:
    rgb = numpy.asarray(picture.convert("RGB")).astype(numpy.int32)
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]


def _indices(picture: Image.Image, path: str) -> numpy.ndarray:
    values = numpy.asarray(picture)
    if values.ndim == 3:  # grey with alpha, or grey stored as colour
        colour = values[..., :3] if values.shape[2] > 2 else values[..., :1]
        if (colour != colour[..., :1]).any():
            raise DataError(f"{path}: holds colours, expected indices of classes (or a MAP with colours)")
        values = values[..., 0]
    if values.dtype.kind == "f" or values.dtype.itemsize > 2 and not 0 <= values.min() <= values.max() < 1 << 16:
        raise DataError(f"{path}: holds {values.min()} to {values.max()}, expected whole numbers of up to 16 bits")
    return values.astype(numpy.uint8) if values.dtype == bool else values
