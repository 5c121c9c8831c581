"""From an image file to its pixels: orientation marks, pixels of more than 8 bits, files that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kd2.data.findings import Findings
from kd2.data.images import check_pixel_range, note_orientation, read_header, read_image, read_record_image, refuse_deep
from kd2.distill import ConfigError, DataError

STORED = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
# What each orientation mark makes of the stored picture (EXIF 2.3, tag Orientation).
UPRIGHT = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.transpose(1, 0, 2),
    6: np.rot90(STORED, -1),
    7: STORED[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(STORED),
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'
BITS_16 = [0, 65535]


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def exif_behind_the_pixels(path, picture: Image.Image, orientation: int) -> None:
    """As some programs write it: the chunk eXIf between the pixels and the end of a PNG."""
    picture.save(path)
    body = b"eXIf" + exif(orientation).tobytes()[6:]
    content = path.read_bytes()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(content[:-12] + chunk + content[-12:])


def xmp_in_png(path, picture: Image.Image, orientation: int) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.format(orientation))
    picture.save(path, pnginfo=info)


FORMS = {
    "exif.png": lambda path, picture, n: picture.save(path, exif=exif(n)),
    "late.png": exif_behind_the_pixels,
    "xmp.png": xmp_in_png,
    "exif.webp": lambda path, picture, n: picture.save(path, exif=exif(n), lossless=True),
    "tag.tif": lambda path, picture, n: picture.save(path, exif=exif(n)),
    "lzw.tif": lambda path, picture, n: picture.save(path, exif=exif(n), compression="tiff_lzw"),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_brought_upright_whatever_holds_its_mark(form, orientation, tmp_path):
    FORMS[form](tmp_path / form, Image.fromarray(STORED), orientation)
    assert read_image(tmp_path / form).tolist() == UPRIGHT[orientation].tolist()
    header = read_header(str(tmp_path / form))
    assert header == (UPRIGHT[orientation].shape[:2], (6, 8), orientation, "")


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_gray_tiff_files_are_brought_upright(orientation, tmp_path):
    """Pillow reads them row by row in the wrong width when it maps the file into memory."""
    gray = STORED[..., 0]
    Image.fromarray(gray).save(tmp_path / "a.tif", exif=exif(orientation))
    assert read_image(tmp_path / "a.tif")[..., 0].tolist() == UPRIGHT[orientation][..., 0].tolist()


def test_the_mark_of_a_jpeg_counts_too(tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.jpg", exif=exif(6))
    assert read_image(tmp_path / "a.jpg").shape == (8, 6, 3) and read_header(str(tmp_path / "a.jpg")).size == (8, 6)


@pytest.mark.parametrize("orientation", [0, 9])
def test_a_mark_that_does_not_exist_turns_nothing(orientation, tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.png", exif=exif(orientation))
    assert read_image(tmp_path / "a.png").tolist() == STORED.tolist() and read_header(str(tmp_path / "a.png")).size == (
        6,
        8,
    )


def test_damaged_exif_data_turn_nothing(tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff")
    assert read_image(tmp_path / "a.png").tolist() == STORED.tolist() and read_header(str(tmp_path / "a.png")).size == (
        6,
        8,
    )


def test_a_record_with_the_size_of_the_picture_as_stored_is_refused_with_the_cause(tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.jpg", exif=exif(6))
    record = {"file_name": str(tmp_path / "a.jpg"), "height": 8, "width": 6}
    assert read_record_image(record).shape == (8, 6, 3)
    text = (
        r"a.jpg: recorded as 8 x 6 pixels, the picture has 6 x 8; 8 x 6 is its size before its EXIF orientation \(6\) "
        "brings it upright: annotate upright pictures, or store them without an orientation$"
    )
    with pytest.raises(DataError, match=text):
        read_record_image(record | {"height": 6, "width": 8})
    with pytest.raises(DataError, match="a.jpg: recorded as 9 x 9 pixels, the picture has 6 x 8$"):
        read_record_image(record | {"height": 9, "width": 9})


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mark_that_keeps_the_size_is_noted(orientation, tmp_path):
    Image.fromarray(STORED).save(tmp_path / "a.jpg", exif=exif(orientation))
    findings = Findings("set")
    note_orientation("a.jpg", read_header(str(tmp_path / "a.jpg")), findings)
    rows = [(verdict, count, places) for verdict, _, count, places in findings.rows()]
    assert rows == [("noted", 1, "a.jpg")] * (orientation in (2, 3, 4))


RAMP = [0, 1000, 2048, 4095, 60000]
# 255 / 4095 of each: black, 62.27, 127.53, white, cut off.
SCALED = [0, 62, 128, 255, 255]


@pytest.mark.parametrize(
    ("mode", "kind", "ending"),
    [("I;16", "<u2", "png"), ("I;16", "<u2", "tif"), ("I;16B", ">u2", "tif"), ("I", "<i4", "tif"), ("F", "<f4", "tif")],
)
def test_more_than_8_bits_are_scaled_by_the_pixel_range(mode, kind, ending, tmp_path):
    path = tmp_path / f"ramp.{ending}"
    Image.frombytes(mode, (5, 1), np.array(RAMP, dtype=kind).tobytes()).save(path)
    assert read_image(path, [0, 4095]).tolist() == [[[x] * 3 for x in SCALED]]
    refuse_deep("ramp", read_header(str(path)).depth, [0, 4095])
    text = rf"ramp.{ending}: a picture of more than 8 bits \(mode {mode}\); set INPUT.PIXEL_RANGE to the two values"
    with pytest.raises(DataError, match=text):
        read_image(path)
    with pytest.raises(DataError, match=text):
        refuse_deep(f"ramp.{ending}", read_header(str(path)).depth, [])


def test_a_16_bit_picture_on_its_side_is_brought_upright(tmp_path):
    deep = STORED[..., 0].astype("<u2") * 257
    Image.frombytes("I;16", (8, 6), deep.tobytes()).save(tmp_path / "a.tif", exif=exif(6))
    assert read_image(tmp_path / "a.tif", BITS_16)[..., 0].tolist() == UPRIGHT[6][..., 0].tolist()


def test_a_range_may_begin_below_zero_and_what_is_no_number_is_black(tmp_path):
    values = np.array([-1000, -500, 0, 1000, np.nan, np.inf], dtype="<f4")
    Image.frombytes("F", (6, 1), values.tobytes()).save(tmp_path / "hounsfield.tif")
    assert read_image(tmp_path / "hounsfield.tif", [-1000, 1000])[0, :, 0].tolist() == [0, 64, 128, 255, 0, 255]


def png_of_16_bits(color_type: int, channels: int) -> bytes:
    """One pixel; each channel is 0x1234."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 16, color_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + b"\x12\x34" * channels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_color_of_16_bits_a_channel_is_read_by_its_whole_range_alone(color_type, channels):
    content = png_of_16_bits(color_type, channels)
    assert read_image(io.BytesIO(content), BITS_16).tolist() == [[[0x12] * 3]]
    for pixel_range in ([], [0, 4095]):
        with pytest.raises(DataError, match=r"an image: a color picture of 16 bits a channel; with INPUT.PIXEL_RANGE"):
            read_image(io.BytesIO(content), pixel_range)


@pytest.mark.parametrize(
    ("mode", "pixel", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 0), (90, 90, 90)),  # wholly transparent
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("P", 1, (10, 20, 30)),
    ],
)
def test_every_kind_of_8_bits_becomes_rgb_and_transparency_is_dropped(mode, pixel, seen, tmp_path):
    picture = Image.new(mode, (2, 1), pixel)
    if mode == "P":
        picture.putpalette([0, 0, 0, 10, 20, 30])
        picture.info["transparency"] = 1
    picture.save(tmp_path / "a.png")
    for pixel_range in ([], [0, 4095]):  # which is of no concern here
        assert read_image(tmp_path / "a.png", pixel_range).tolist() == [[list(seen)] * 2]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "red.jpg")[0, 0].tolist()
    assert red > 250 and green < 5 and blue < 5


def test_of_several_frames_the_first_counts(tmp_path):
    frames = [Image.new("P", (2, 2), 0), Image.new("P", (2, 2), 1)]
    for frame in frames:
        frame.putpalette([10, 20, 30, 200, 200, 200])
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named_by_reader_and_header_check(content, tmp_path):
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, read_header):
        with pytest.raises(DataError, match=r"a.jpg: not a readable image: of no format that the installed Pillow"):
            read(str(tmp_path / "a.jpg"))


def test_a_truncated_picture_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="a.jpg: not a readable image: "):
        read_image(tmp_path / "a.jpg")


def test_a_missing_file_is_named(tmp_path):
    for read in (read_image, read_header):
        with pytest.raises(DataError, match="gone.jpg: not a readable image: No such file or directory$"):
            read(str(tmp_path / "gone.jpg"))


def test_too_many_pixels_are_named_with_the_limit(tmp_path, monkeypatch):
    Image.new("L", (40, 30)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert read_image(tmp_path / "big.png").shape == (30, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for read in (read_image, read_header):
        with pytest.raises(DataError, match="big.png: more than 1,000 pixels, the most that are read"):
            read(str(tmp_path / "big.png"))


@pytest.mark.parametrize("pixel_range", [[5, 5], [9, 2]])
def test_a_range_that_is_none_is_refused(pixel_range):
    with pytest.raises(ConfigError, match=r"INPUT.PIXEL_RANGE is \[\d, \d\], expected \[low, high\] with low below"):
        check_pixel_range(pixel_range)
