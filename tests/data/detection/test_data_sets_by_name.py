"""Data sets by their name in the config."""

import json

import pytest
from PIL import Image

from kd2.data.detection.records import load
from kd2.distill import ConfigError, DataError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A data root with one data set."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "1.jpg")
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}],
                "categories": [{"id": 1, "name": "dog"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            }
        )
    )
    return tmp_path


def load_entry(entry):
    return load("mine", {"mine": entry}, "DATASETS.TRAIN")


def test_paths_are_relative_to_the_data_root(root):
    assert load_entry({"JSON": "a.json", "IMAGES": "images"}).source == str(root / "a.json")


def test_without_the_variable_the_root_is_the_datasets_folder(root, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(root)
    root.joinpath("datasets").symlink_to(root)
    assert load_entry({"JSON": "a.json", "IMAGES": "images"}).source == "datasets/a.json"


def test_absolute_paths_are_taken_as_they_are(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    assert load_entry({"JSON": str(root / "a.json"), "IMAGES": str(root / "images")}).classes == ("dog",)


def test_a_folder_in_voc_layout_is_read_as_such(root):
    with pytest.raises(DataError, match="ImageSets/Main/train.txt: No such file"):
        load_entry({"VOC": ".", "SPLIT": "train"})


def test_an_unknown_name_is_refused_with_near_names():
    with pytest.raises(ConfigError, match=r"^DATASETS.TRAIN: no data set 'mime' .*; did you mean mine\?$"):
        load("mime", {"mine": {}}, "DATASETS.TRAIN")


def test_built_in_names_are_known():
    with pytest.raises(DataError, match=r"^data set 'coco_2017_val': JSON .*instances_val2017.json does not exist"):
        load("coco_2017_val", {})


def test_an_entry_with_other_keys_is_refused():
    text = r"^DATASETS.CUSTOM.mine has the keys \['IMAGES', 'JSN'\], expected JSON and IMAGES, or"
    with pytest.raises(ConfigError, match=text):
        load_entry({"JSN": "a.json", "IMAGES": "images"})


@pytest.mark.parametrize("entry", ["a.json", None, {"JSON": 5, "IMAGES": "images"}])
def test_an_entry_that_is_no_group_of_texts_is_refused(entry):
    text = r"^DATASETS.CUSTOM.mine is .*, expected JSON and IMAGES, or VOC and SPLIT, as texts$"
    with pytest.raises(ConfigError, match=text):
        load_entry(entry)


@pytest.mark.parametrize("key", ["JSON", "IMAGES"])
def test_a_missing_file_or_folder_is_named_with_the_data_root(root, key):
    entry = {"JSON": "a.json", "IMAGES": "images", key: "gone"}
    text = rf"^data set 'mine': {key} {root}/gone does not exist; relative paths start at '{root}' \(\$DETECTRON2_DATA"
    with pytest.raises(DataError, match=text):
        load_entry(entry)
