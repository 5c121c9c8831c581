"""Data sets by their name in the config."""

import json

import pytest

from kd2.data.detection.records import check_numbers, load, of_one_run, tell_without_masks
from kd2.distill import ConfigError, DataError

from ...helpers.drawn_objects import coco, write_coco, write_voc
from ...helpers.image_files import draw


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A data root with one data set."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    draw(tmp_path / "images" / "1.jpg", size=(40, 30))
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
    with pytest.raises(DataError, match="neither the list ImageSets/Main/train.txt"):
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


def names_of(data) -> list[str]:
    """The class of every object, in the order of the file."""
    return [data.classes[a["category_id"]] for r in data.records for a in r["annotations"]]


@pytest.mark.parametrize(
    ("classes", "order"), [(["dog", "cat"], ("dog", "cat")), ({"cat": "animal", "dog": "animal"}, ("animal",))]
)
@pytest.mark.parametrize("write", [write_coco, write_voc])
def test_classes_are_chosen_in_the_config(tmp_path, write, classes, order):
    data = load("x", {"x": write(tmp_path / "x") | {"CLASSES": classes}})
    assert data.classes == order
    assert set(names_of(data)) == set(order)


def test_classes_of_another_form_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="^DATASETS.CUSTOM.x.CLASSES is 'cat', expected a list of different names, or"
    ):
        load("x", {"x": write_coco(tmp_path / "x") | {"CLASSES": "cat"}})


def test_sets_of_one_run_meet_by_name(tmp_path):
    reversed_ids = coco()
    reversed_ids["categories"] = [{"id": 4, "name": "dog"}, {"id": 9, "name": "cat"}]
    for annotation in reversed_ids["annotations"]:
        annotation["category_id"] = {1: 9, 2: 4}[annotation["category_id"]]
    custom = {"a": write_coco(tmp_path / "a"), "b": write_coco(tmp_path / "b", reversed_ids)}
    a, b = of_one_run([load(name, custom) for name in custom])
    assert (b.classes, names_of(b)) == (("cat", "dog"), names_of(a))


def test_a_set_may_lack_a_class_of_the_run(tmp_path):
    only_cats = coco()
    only_cats["categories"] = only_cats["categories"][:1]
    only_cats["annotations"] = [a for a in only_cats["annotations"] if a["category_id"] == 1]
    data = load("x", {"x": write_coco(tmp_path / "x", only_cats)})
    (found,) = of_one_run([data], ("dog", "cat"))
    assert (found.classes, names_of(found)) == (("dog", "cat"), ["cat"] * 3)


def test_two_files_that_exchange_their_numbers_are_refused(tmp_path):
    exchanged = coco()
    exchanged["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    custom = {"a": write_coco(tmp_path / "a"), "b": write_coco(tmp_path / "b", exchanged)}
    text = r"b.coco.json: category 2 is 'cat', in .*a.coco.json that is 1; if the names are right, DATASETS.CUSTOM.b.CL"
    with pytest.raises(DataError, match=text):
        check_numbers([load(name, custom) for name in custom])
    check_numbers([load("a", custom), load("b", {"b": custom["b"] | {"CLASSES": ["cat", "dog"]}})])


def test_files_that_count_from_0_and_from_1_are_accepted(tmp_path):
    from_0 = coco()
    for entry, key in [(c, "id") for c in from_0["categories"]] + [(a, "category_id") for a in from_0["annotations"]]:
        entry[key] -= 1
    custom = {"a": write_coco(tmp_path / "a"), "b": write_coco(tmp_path / "b", from_0)}
    check_numbers([load(name, custom) for name in custom])


def test_objects_without_masks_are_told(tmp_path):
    what = coco()
    what["annotations"][1]["segmentation"] = []
    data = load("x", {"x": write_coco(tmp_path / "x", what)})
    tell_without_masks(data)
    text = "object without a usable mask, left out of training and of the score of masks"
    assert list(data.findings.rows()) == [("dropped", text, 1, "im1.jpg")]
