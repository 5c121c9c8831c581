"""Reading label files."""

import numpy as np
import pytest
from PIL import Image

from kd2.data.segmentation.labels import Labels, packed
from kd2.data.segmentation.layouts import contiguous
from kd2.distill import DataError

VALUES = np.array([[0, 1, 2], [2, 1, 255]], dtype=np.uint8)
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def labels():
    """Three classes; 255 is ignored."""
    return contiguous(3, [255])


@pytest.fixture
def saved(tmp_path):
    def save(picture, ending: str = "png"):
        path = str(tmp_path / f"label.{ending}")
        (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
        return path

    return save


def test_gray_values_are_the_classes(labels, saved):
    found = labels.read(saved(VALUES))
    assert found.dtype == np.uint8 and found.tolist() == VALUES.tolist()


def test_a_palette_is_not_applied(labels, saved):
    picture = Image.fromarray(VALUES).convert("P")
    picture.putdata(VALUES.reshape(-1).tolist())
    picture.putpalette([200, 10, 10] * 256)
    assert labels.read(saved(picture)).tolist() == VALUES.tolist()


def test_16_bits_are_read(saved):
    values = np.array([[1000, 2000, 65535]], dtype=np.uint16)
    assert Labels({1000: 0, 2000: 1}, [65535]).read(saved(values)).tolist() == [[0, 1, 255]]


def test_32_bits_are_read_when_the_values_fit(labels, saved):
    assert labels.read(saved(VALUES.astype(np.int32), "tif")).tolist() == VALUES.tolist()


def test_one_bit_is_read(labels, saved):
    assert labels.read(saved(np.array([[True, False]]))).tolist() == [[1, 0]]


@pytest.mark.parametrize("alpha", [False, True])
def test_gray_stored_as_color_is_read(alpha, labels, saved):
    channels = [VALUES] * 3 + [np.full_like(VALUES, 255)] * alpha
    assert labels.read(saved(np.stack(channels, -1))).tolist() == VALUES.tolist()


def test_gray_with_alpha_is_read(labels, saved):
    assert labels.read(saved(Image.fromarray(VALUES).convert("LA"))).tolist() == VALUES.tolist()


def test_values_are_mapped(saved):
    assert Labels({0: 1, 1: 0, 2: 1}, [255]).read(saved(VALUES)).tolist() == [[1, 0, 1], [1, 0, 255]]


def test_other_values_can_be_ignored(saved):
    assert Labels({1: 0}, others=True).read(saved(VALUES)).tolist() == [[255, 0, 255], [255, 0, 255]]


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P"])
def test_colors_are_looked_up(kind, saved):
    picture = Image.fromarray(np.array([[RED, GREEN], [(0, 0, 0), RED]], dtype=np.uint8)).convert(kind)
    labels = Labels({packed(RED): 0, packed(GREEN): 1}, [packed((0, 0, 0))], colors=True)
    assert labels.read(saved(picture)).tolist() == [[0, 1], [255, 0]]


def test_a_value_outside_the_classes_is_refused(saved):
    with pytest.raises(DataError, match=r"label.png: 3 pixels hold 2, 255, allowed: 0-1, 7$"):
        Labels({0: 0, 1: 1}, [7]).read(saved(VALUES))


def test_many_values_outside_the_classes_are_cut_short(labels, saved):
    with pytest.raises(DataError, match=r"label.png: 17 pixels hold 3, 4, 5, 6, 7 ..., allowed: 0-2, 255$"):
        labels.read(saved(np.arange(20, dtype=np.uint8)[None]))


def test_a_color_outside_the_classes_is_refused(saved):
    path = saved(np.array([[RED, (1, 2, 3)]], dtype=np.uint8))
    text = r"label.png: 1 pixels hold \(1,2,3\), allowed: \(0,255,0\), \(255,0,0\)$"
    with pytest.raises(DataError, match=text):
        Labels({packed(RED): 0, packed(GREEN): 1}, colors=True).read(path)


def test_colors_where_indices_are_expected_are_refused(labels, saved):
    path = saved(np.array([[RED]], dtype=np.uint8))
    text = r"label.png: holds colors, expected indices of classes \(or a MAP with colors\)$"
    with pytest.raises(DataError, match=text):
        labels.read(path)


@pytest.mark.parametrize("value", [-1, 1 << 16])
def test_numbers_beyond_16_bits_are_refused(value, labels, saved):
    text = rf"label.tif: holds {min(0, value)} to {max(0, value)}, expected whole numbers of up to 16 bits$"
    with pytest.raises(DataError, match=text):
        labels.read(saved(np.array([[0, value]], dtype=np.int32), "tif"))


def test_fractions_are_refused(labels, saved):
    with pytest.raises(DataError, match=r"label.tif: holds 0.5 to 0.5, expected whole numbers of up to 16 bits$"):
        labels.read(saved(np.full((2, 2), 0.5, np.float32), "tif"))


def test_a_missing_file_is_refused(labels, tmp_path):
    with pytest.raises(DataError, match=r"gone.png: not a readable image: No such file or directory$"):
        labels.read(str(tmp_path / "gone.png"))


@pytest.mark.parametrize("keep", [0, 30, 60])
def test_a_corrupt_file_is_refused(keep, labels, saved):
    path = saved(np.zeros((50, 50), dtype=np.uint8))
    with open(path, "rb+") as file:
        file.truncate(keep)
    with pytest.raises(DataError, match=r"label.png: not a readable image: "):
        labels.read(path)


def test_a_record_without_a_label_is_ignored_everywhere(labels):
    found = labels.of({"file_name": "a.jpg", "height": 2, "width": 3})
    assert found.dtype == np.uint8 and found.tolist() == [[255] * 3] * 2


def test_a_label_of_another_size_than_its_record_is_refused(labels, saved):
    record = {"file_name": "a.jpg", "sem_seg_file_name": saved(VALUES), "height": 4, "width": 5}
    with pytest.raises(DataError, match=r"label.png: 3 x 2 pixels, its image a.jpg has 5 x 4$"):
        labels.of(record)
