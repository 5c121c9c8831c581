"""From an image file to its pixels: the one way for every task and framework.

A picture is upright (its orientation mark applied), RGB, 8 bits a channel; transparency is dropped, of several frames
the first counts. The header check and the reader follow one rule, so they never disagree.
"""

import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import EpsImagePlugin, ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from kd2.data.findings import Findings
from kd2.distill import ConfigError, DataError

# PIL knows a picture by its content, and hands PostScript, a program, to Ghostscript whatever the file is called.
EpsImagePlugin.gs_binary = False

ImageSource = str | os.PathLike[str] | BinaryIO | Image.Image
Size = tuple[int, int]  # (H, W)

# By which a picture is known in a folder or archive.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".jp2", ".avif")

# What makes a picture upright, by the number of its orientation mark.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # these exchange height and width
DEEP_COLOR = "a color picture of 16 bits a channel"  # of which Pillow keeps the upper 8
_FULL_16_BITS = [0, 65535]

# What Pillow and archives raise on broken files.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError, MemoryError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip

# From half of the number of pixels that are refused on, Pillow warns without naming the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Header(NamedTuple):
    """What the head of an image file tells.

    Attributes:
        size: height and width as ``read_image`` gives them.
        stored: height and width before the picture is brought upright.
        orientation: 1 (upright) to 8: of the EXIF or XMP data or the TIFF tag.
        depth: what it is that has more than 8 bits a channel; empty: nothing.
    """

    size: Size
    stored: Size
    orientation: int
    depth: str


def read_image(source: ImageSource, pixel_range: Sequence[float] = (), name: str = "") -> np.ndarray:
    """The pixels of an image, upright, (H, W, 3) uint8, RGB.

    Args:
        source: a path, an open binary file, or an image that is open already; it is closed afterwards.
        pixel_range: ``INPUT.PIXEL_RANGE``: the values (low, high) of 16-bit, integer and float pictures that become 0
            and 255; linear between them, cut off outside, 0 where there is no number. Empty: they are refused.
        name: what errors call the image; empty: its path.

    Raises:
        DataError: the image does not decode, has too many pixels, or more than 8 bits and no range.
    """
    with opened(source, name) as (image, called):
        refuse_deep(called, _depth(image), pixel_range)
        # Pillow itself brings a TIFF upright.
        turn = None if isinstance(image, TiffImageFile) else _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if _is_number(upright):
            return _scaled(np.asarray(upright), *pixel_range)
        return np.array(upright.convert("RGB"))


def read_record_image(record: dict, pixel_range: Sequence[float] = ()) -> np.ndarray:
    """``read_image`` of a record's ``file_name``; its ``height`` and ``width``, if any, must be the picture's.

    Raises:
        DataError: see ``read_image``; another size, with the orientation named where it is the cause.
    """
    path = record["file_name"]
    pixels = read_image(path, pixel_range)
    height, width = pixels.shape[:2]
    recorded = record.get("height") or height, record.get("width") or width
    if recorded != (height, width):
        raise DataError(size_text(path, recorded, read_header(path)))
    return pixels


def read_header(source: ImageSource, name: str = "") -> Header:
    """What the head of an image tells; its pixels are not decoded.

    Args:
        source, name: see ``read_image``.

    Raises:
        DataError: no image, too many pixels.
    """
    with opened(source, name) as (image, _):
        stored, orientation = (image.height, image.width), _orientation(image)
        if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.Orientation) in _SIDEWAYS:
            stored = stored[::-1]  # Pillow has turned it
        return Header(stored[::-1] if orientation in _SIDEWAYS else stored, stored, orientation, _depth(image))


def size_text(path: str, recorded: Size, header: Header) -> str:
    """The complaint about a recorded size that is not the picture's, with the orientation where it is the cause."""
    (height, width), (real_height, real_width) = recorded, header.size
    text = f"{path}: recorded as {width} x {height} pixels, the picture has {real_width} x {real_height}"
    if recorded != header.stored:
        return text
    return (
        f"{text}; {width} x {height} is its size before its EXIF orientation ({header.orientation}) brings it upright: "
        "annotate upright pictures, or store them without an orientation"
    )


def note_orientation(path: str, header: Header, findings: Findings) -> None:
    """Note a picture that is mirrored or upside down as stored (2 to 4).

    Its size does not tell whether annotations were made for that form; they are taken to be those of the upright one.
    """
    if header.orientation in _TURNS and header.orientation not in _SIDEWAYS:
        findings.noted(
            f"picture is stored mirrored or upside down (EXIF orientation {header.orientation}), its annotations are "
            "taken to be those of the upright picture",
            os.path.basename(path),
        )


def refuse_deep(called: str, depth: str, pixel_range: Sequence[float]) -> None:
    """Raises DataError for a picture whose ``Header.depth`` does not go with ``INPUT.PIXEL_RANGE``."""
    if depth == DEEP_COLOR and list(pixel_range) != _FULL_16_BITS:
        raise DataError(
            f"{called}: {depth}; with INPUT.PIXEL_RANGE [0, 65535] the upper 8 are taken, any other range needs a "
            "picture of 8 bits"
        )
    if depth and not pixel_range:
        raise DataError(
            f"{called}: {depth}; set INPUT.PIXEL_RANGE to the two values that are to be black and white, such as "
            "[0, 4095]"
        )


def check_pixel_range(pixel_range: Sequence[float]) -> None:
    """Raises ConfigError when ``INPUT.PIXEL_RANGE`` is no range."""
    if pixel_range and not pixel_range[0] < pixel_range[1]:
        raise ConfigError(f"INPUT.PIXEL_RANGE is {list(pixel_range)}, expected [low, high] with low below high")


@contextmanager
def opened(source: ImageSource, name: str = "") -> Iterator[tuple[Image.Image, str]]:
    """The open image and what errors call it; what goes wrong inside the block is an error of this image."""
    called = name or (os.fspath(source) if isinstance(source, (str, os.PathLike)) else "an image")
    with broken_named(called), ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            # Pillow maps a file that it opens itself into memory, and then reads a gray TIFF on its side wrongly.
            source = stack.enter_context(open(source, "rb"))
        yield stack.enter_context(source if isinstance(source, Image.Image) else Image.open(source)), called


@contextmanager
def broken_named(called: str) -> Iterator[None]:
    """What Pillow and archives raise on a broken file becomes a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{called}: not a readable image: of no format that the installed Pillow knows") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(f"{called}: more than {most:,} pixels, the most that are read; cut it into pieces") from None
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise DataError(f"{called}: not a readable image: {reason}") from None


def _orientation(image: Image.Image) -> int:
    """The orientation mark, 1 where there is none that can be read; the same before and after the pixels are loaded."""
    try:
        if not isinstance(image, PngImageFile):
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
        else:
            if image.tile and "exif" not in image.info and _more_behind_pixels(image):
                image.load()
            # PngImageFile's own method would decode every PNG without EXIF data.
            found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1
    return found if found in _TURNS else 1


def _more_behind_pixels(image: PngImageFile) -> bool:
    """Whether chunks follow the pixels of a PNG: some programs write EXIF and XMP data there."""
    assert image.fp is not None
    at, kind = image.tile[0].offset - 8, b"IDAT"
    while kind == b"IDAT":
        image.fp.seek(at)
        length, kind = struct.unpack(">I4s", image.fp.read(8))
        at += length + 12
    return kind != b"IEND"


def _is_number(image: Image.Image) -> bool:
    """Whether pixels are one number of more than 8 bits: I;16 and its kin, I, F."""
    return image.mode[0] in "IF"


def _depth(image: Image.Image) -> str:
    """``Header.depth``; that of color stands in the tiles, as long as they are not decoded."""
    if _is_number(image):
        return f"a picture of more than 8 bits (mode {image.mode})"
    deep = any(re.search(r";16[BLNS]", str(tile.args)) for tile in getattr(image, "tile", ()))
    return DEEP_COLOR if deep else ""


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers (H, W) to gray (H, W, 3): low and below to 0, high and above to 255."""
    share = np.nan_to_num((values.astype(np.float64) - low) * (255 / (high - low)), nan=0.0)
    return np.repeat(share.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)
