"""From an image file to its pixels: the one way for every task."""

import os
from typing import BinaryIO

import numpy as np
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps

# PIL knows a picture by its content, and hands PostScript, a program, to Ghostscript whatever the file is called.
EpsImagePlugin.gs_binary = False

ImageSource = str | os.PathLike[str] | BinaryIO | Image.Image

# The camera's orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)


def read_image(source: ImageSource) -> np.ndarray:
    """The pixels of an image, upright (its EXIF orientation applied), (H, W, 3) uint8, RGB.

    Args:
        source: a path, an open binary file, or an image that is open already; it is closed afterwards.

    Raises:
        OSError, SyntaxError, ValueError: the image does not decode (PIL's errors).
    """
    with source if isinstance(source, Image.Image) else Image.open(source) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def image_size(path: str, upright: bool = True) -> tuple[int, int]:
    """Height and width from the header alone: as ``read_image`` gives them, or as stored (not ``upright``).

    Raises:
        OSError, SyntaxError, ValueError: no header that PIL reads.
    """
    with Image.open(path) as image:
        turned = upright and "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return (image.width, image.height) if turned else (image.height, image.width)
