"""Sheets of pictures with what is annotated on them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd2.data.classification.image_dataset import read_folder
from kd2.data.detection.records import Records
from kd2.data.segmentation.semantic import load_semantic
from kd2.distill import ConfigError
from kd2.report.data_pictures import annotated, color_of, draw_sheet, sheet_path

from ..helpers.image_files import draw


def boxes(folder: Path, size: tuple[int, int], box: list[float], count: int = 1, **more) -> Records:
    """``count`` gray pictures of ``size`` (width, height), one object on each."""
    records = []
    for number in range(count):
        path = draw(folder / f"{number}.png", [(90, 90, 90)], size)
        entry = {"bbox": box, "category_id": 1, "iscrowd": 0} | more
        records.append({"file_name": str(path), "width": size[0], "height": size[1], "annotations": [entry]})
    return Records("drawn", ("cell", "bolt"), records, "drawn.json")


def painted(picture: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box (x1, y1, x2, y2), ends exclusive, around the pixels of a color."""
    ys, xs = np.nonzero((np.asarray(picture) == color).all(2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 250), (30, 40, 90, 120)), ((100, 50), (120, 160, 360, 200)), ((800, 600), (15, 20, 45, 60))],
)
def test_a_box_is_drawn_where_it_is(tmp_path, size, expected):
    """As it is, enlarged four times and cut, reduced to the half."""
    width, height = 60.0, 80.0 if size[1] > 50 else 10.0
    picture, _ = annotated(boxes(tmp_path, size, [30.0, 40.0, width, height]), 0)
    assert painted(picture, color_of(1)) == expected
    assert max(picture.size) == (300 if size[0] == 300 else 400)


def test_a_mask_is_tinted_where_it_is(tmp_path):
    pytest.importorskip("pycocotools")
    polygon = [[50, 60, 70, 60, 70, 90, 50, 90]]
    picture, _ = annotated(boxes(tmp_path, (300, 250), [30.0, 40.0, 60.0, 80.0], segmentation=polygon), 0)
    pixels = np.asarray(picture)
    inside = tuple(pixels[75, 60].tolist())
    assert inside not in [(90, 90, 90), color_of(1)] and painted(picture, inside) == (50, 60, 70, 90)
    assert pixels[50, 40].tolist() == [90, 90, 90]


def test_the_classes_of_a_picture_are_named_in_their_colors(tmp_path):
    _, words = annotated(boxes(tmp_path, (300, 250), [30.0, 40.0, 60.0, 80.0]), 0)
    assert words == [("0.png", (0, 0, 0)), ("bolt", color_of(1))]


def test_classes_of_pixels_are_painted_half_over_the_picture_and_ignored_ones_black(tmp_path):
    draw(tmp_path / "images" / "a.png", [(100, 100, 100)], (3, 1))
    draw(tmp_path / "labels" / "a.png", (0, 1, 255), (3, 1))
    entry = {"IMAGES": str(tmp_path / "images"), "LABELS": str(tmp_path / "labels"), "CLASSES": ["cat", "dog"]}
    entry["MAP"] = {0: "cat", 1: "dog"}
    picture, words = annotated(load_semantic("mine", {"mine": entry}), 0)
    assert picture.size == (399, 133)
    found = [picture.getpixel((x, 60)) for x in (60, 200, 330)]
    expected = [tuple((100 + side) // 2 for side in color_of(i)) for i in (0, 1)] + [(50, 50, 50)]
    assert np.abs(np.subtract(found, expected)).max() <= 1
    assert [word for word, _ in words] == ["a.png", "cat", "dog"]


def test_an_image_of_a_class_is_named(tmp_path):
    draw(tmp_path / "cat" / "a.png", [(9, 8, 7)], (5, 5))
    picture, words = annotated(read_folder("pets", str(tmp_path)), 0)
    assert picture.getpixel((0, 0)) == (9, 8, 7) and [word for word, _ in words] == ["cat/a.png", "cat"]


def test_a_sheet_has_twelve_pictures_in_rows_of_four(tmp_path):
    data = boxes(tmp_path, (200, 100), [10.0, 10.0, 50.0, 50.0], count=30)
    path = sheet_path("a/set", str(tmp_path / "out"))
    draw_sheet(data, path)
    assert path == str(tmp_path / "out" / "a_set.png")
    gray = (np.asarray(Image.open(path)) == 90).all(2)
    corners = gray[1:, 1:] & ~gray[:-1, 1:] & ~gray[1:, :-1] & ~gray[:-1, :-1]
    outer = [(y, x) for y, x in np.argwhere(corners) if (x - 7) % 408 == 0]
    assert len(outer) == 12 and len({y for y, _ in outer}) == 3


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine.png").write_text("precious")
    with pytest.raises(ConfigError, match="mine.png exists"):
        sheet_path("mine", str(tmp_path))
