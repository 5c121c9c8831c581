"""Masks of COCO files before pycocotools sees them."""

import numpy as np
import pytest

from kd2.data.detection.masks import checked_mask, mask_area, mask_box

coco_mask = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")

TRIANGLE = [1, 1, 5, 1, 5, 4]


def drawn(height: int, width: int, share: float = 0.4) -> np.ndarray:
    """A mask of noise, (H, W) uint8."""
    return (np.random.RandomState(height).rand(height, width) < share).astype(np.uint8)


def code_of(mask: np.ndarray) -> dict:
    """Its compressed code, with counts as text."""
    code = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def runs_of(mask: np.ndarray) -> list[int]:
    """Its runs of 0 and 1 in turn, column by column."""
    flat = np.concatenate([[0], mask.T.reshape(-1)])
    edges = np.flatnonzero(np.diff(flat)) if flat[0] == 0 else []
    return np.diff([0, *edges, mask.size]).tolist()


def test_a_good_mask_comes_back_itself():
    mask = [TRIANGLE, [7, 1, 9, 1, 9, 4]]
    assert checked_mask(mask, 10, 20) is mask


@pytest.mark.parametrize(("height", "width", "share"), [(3, 5, 0.4), (64, 96, 0.5), (300, 200, 0.01), (8, 8, 1.1)])
def test_runs_become_the_text_that_pycocotools_writes(height, width, share):
    mask = drawn(height, width, share)
    code = {"size": [height, width], "counts": runs_of(mask)}
    assert checked_mask(code, height, width) == code_of(mask)


@pytest.mark.parametrize(("height", "width", "share"), [(3, 5, 0.4), (64, 96, 0.5), (700, 900, 0.0001)])
def test_a_text_of_runs_is_kept_and_its_area_is_exact(height, width, share):
    mask = drawn(height, width, share)
    code = code_of(mask)
    assert checked_mask(code, height, width) is code
    assert mask_area(code) == mask.sum()


@pytest.mark.parametrize(
    "mask",
    [
        [[]],
        [[1, 2, 3, 4]],
        [TRIANGLE[:5]],
        [[1e18, 1, 5, 1e18, 3, 3]],
        [[float("nan"), *TRIANGLE[1:]]],
        [[*TRIANGLE[:5], float("inf")]],
        [["a", *TRIANGLE[1:]]],
        [[TRIANGLE, TRIANGLE, TRIANGLE, TRIANGLE, TRIANGLE, TRIANGLE]],
        [{"x": 1}],
        [None],
        "mask",
        5,
        {},
        {"size": [10, 20]},
        {"size": [20, 10], "counts": [200]},
        {"size": [10, 20], "counts": [100]},
        {"size": [10, 20], "counts": [300, -100]},
        {"size": [10, 20], "counts": []},
        {"size": [10, 20], "counts": [[200]]},
        {"size": [10, 20], "counts": [1e400, 5]},
        {"size": [10, 20], "counts": [200]},
        {"size": [10, 20], "counts": [0, 0, 200]},
        code_of(np.zeros((10, 20), np.uint8)),
        {"size": [10, 20], "counts": "\u00e9"},
        {"size": [10, 20], "counts": "ooooooooooooooooo0"},
        {"size": [10, 20], "counts": "o"},
        {"size": [10, 20], "counts": ""},
        {"size": [10, 20], "counts": None},
        {"size": "10x20", "counts": [200]},
    ],
    ids=repr,
)
def test_a_mask_that_cannot_be_used_is_none(mask):
    assert checked_mask(mask, 10, 20) is None


def test_one_polygon_without_a_list_around_it_is_one_polygon():
    assert checked_mask(TRIANGLE, 10, 20) == [TRIANGLE]


def test_bad_polygons_are_left_out():
    assert checked_mask([TRIANGLE, [1, 2]], 10, 20) == [TRIANGLE]


def test_coordinates_may_be_texts():
    assert checked_mask([list(map(str, TRIANGLE))], 10, 20) == [TRIANGLE]


def test_the_area_of_polygons_adds_up():
    assert mask_area([TRIANGLE, [0, 0, 2, 0, 2, 2, 0, 2]]) == 6 + 4


def test_the_box_around_a_mask():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 3:9] = 1
    assert mask_box(code_of(mask)) == [3, 2, 6, 3]
    assert mask_box([TRIANGLE, [7, 2, 9, 2, 9, 6]]) == [1, 1, 8, 5]
