"""A part of the labels: datasets/split_coco.py."""

import json

import pytest

CATEGORIES = [{"id": 3, "name": "cell"}]


@pytest.fixture
def whole(root):
    """Ten images of which the even ones have an object."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 8} for i in range(10)]
    objects = [{"id": i, "image_id": i, "category_id": 3, "bbox": [0, 0, 4, 4]} for i in range(0, 10, 2)]
    content = {"images": images, "annotations": objects, "categories": CATEGORIES, "licenses": ["CC0"]}
    (root / "all.json").write_text(json.dumps(content))
    return content


def test_every_image_is_in_one_of_both_files_with_its_objects(whole, run, root):
    code, said, _ = run("split_coco.py", "all.json", "--part", 0.3, "--output", "part")
    assert (code, said) == (0, "part: 3 images with labels, 7 others\n")
    parts = [json.loads((root / "part" / f"{name}.json").read_text()) for name in ("labeled", "rest")]
    for part in parts:
        ids = {image["id"] for image in part["images"]}
        assert [x["image_id"] for x in part["annotations"]] == [i for i in range(0, 10, 2) if i in ids]
        assert (part["categories"], part["licenses"]) == (CATEGORIES, ["CC0"])
    assert sorted((image for part in parts for image in part["images"]), key=lambda x: x["id"]) == whole["images"]


def test_a_seed_draws_the_same_images_again(whole, run, root):
    for folder, seed in (("one", 1), ("same", 1), ("other", 2)):
        run("split_coco.py", "all.json", "--part", 0.3, "--seed", seed, "--output", folder)
    one, same, other = ((root / folder / "labeled.json").read_text() for folder in ("one", "same", "other"))
    assert one == same != other


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--part", 1], "--part is 1, expected a number above 0 and below 1"),
        (["--part", "nan"], "--part is nan, expected a number above 0 and below 1"),
        (["--part", 0.5, "--output", "."], ". exists, expected a folder still to be made"),
    ],
)
def test_what_cannot_be_split_is_told(words, text, whole, run):
    code, _, errors = run("split_coco.py", "all.json", "--output", "part", *words)
    assert (code, errors) == (1, f"error: {text}\n")


def test_images_without_ids_are_refused(whole, run, root):
    del whole["images"][4]["id"]
    (root / "all.json").write_text(json.dumps(whole))
    code, _, errors = run("split_coco.py", "all.json", "--part", 0.5, "--output", "part")
    assert (code, errors) == (1, "error: all.json: images without an id of their own cannot be told apart\n")
