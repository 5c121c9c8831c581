"""Records of annotation files as tools, people and accidents leave them: the boxes lie where they were painted."""

from pathlib import Path

import pytest

from kd2.data.detection.records import load

from ...helpers.drawn_objects import COCO_KINDS, KINDS, TRUTH, write_kind

DROPPED_MASKS = {"no masks", "masks of two points", "masks out of the world", "masks of another size"}
# Kind -> the verdict and the start of what a user is told; other kinds are read without a word.
TOLD = {
    "a parent category without boxes": ("dropped", "category is the parent of others"),
    "annotation ids given twice": ("repaired", "annotation without an id of its own"),
    "no annotation ids": ("repaired", "annotation without an id of its own"),
    "areas of 0": ("repaired", "area is no positive number"),
    "iscrowd NaN": ("repaired", "iscrowd is a text or no number"),
    "image ids as texts": ("repaired", "image_id is a text where the id is a number"),
    "no sizes": ("repaired", "image has no size"),
    "paths of another machine": ("repaired", "path of an image is none here"),
    "a box without height": ("dropped", "box has no area"),
    "a box of NaN": ("dropped", "box is not finite"),
    "one picture under two ids": ("repaired", "image has two ids"),
    "a box outside": ("dropped", "box lies outside its image"),
    "crowd": ("noted", "object is crowd or difficult"),
    "an ignored object": ("noted", "ignore is 1"),
    "boxes from polygons": ("repaired", "box is missing, made from the mask"),
    "flat polygons": ("repaired", "mask is a polygon without a list around it"),
    "one bad polygon of two": ("dropped", "part of a mask is no polygon"),
    "masks of two points": ("dropped", "mask is neither polygons"),
    "masks out of the world": ("dropped", "mask is neither polygons"),
    "masks of another size": ("dropped", "mask is neither polygons"),
    "VOC with fractions": ("noted", "boxes have fractions"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def data(kind, tmp_path):
    return load("mine", {"mine": write_kind(tmp_path, kind)})


def test_boxes_lie_where_they_were_painted(data):
    found = {
        Path(record["file_name"]).name: [
            (data.classes[a["category_id"]], *a["bbox"]) for a in record["annotations"] if not a["iscrowd"]
        ]
        for record in data.records
    }
    assert found == TRUTH


def test_every_record_is_whole(data):
    for record in data.records:
        assert (record["width"], record["height"]) == (96, 64)
        for annotation in record["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert annotation["area"] == w * h and annotation["iscrowd"] in (0, 1)


def test_what_was_repaired_and_left_out_is_told_by_kind(kind, data):
    told = [(verdict, what) for verdict, what, _, _ in data.findings.rows()]
    if kind in TOLD:
        verdict, start = TOLD[kind]
        assert any(v == verdict and what.startswith(start) for v, what in told), told
    else:
        assert all(what.startswith(("category_id is", "iscrowd is")) for _, what in told)  # of numbers as texts


@pytest.mark.parametrize("kind", COCO_KINDS, indirect=True)
def test_masks_are_usable_or_not_there(kind, data):
    masks = ["segmentation" in a for r in data.records for a in r["annotations"] if not a["iscrowd"]]
    missing = 5 if kind in DROPPED_MASKS else 1 if kind == "one mask is missing" else 0
    assert masks.count(False) == missing
