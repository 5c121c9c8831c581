"""A folder of images and a folder of labels, by config."""

import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from kd2.config import defaults_of, merge
from kd2.data.segmentation.semantic import load_semantic
from kd2.distill import ConfigError, DataError

from ...helpers.image_files import draw

COLORS = {"255,0,0": "cat", "0,255,0": "dog"}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Two images with labels 0 and 1."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for stem in ("a", "b"):
        draw(tmp_path / "images" / f"{stem}.jpg")
        draw(tmp_path / "labels" / f"{stem}.png", (0, 1))
    return tmp_path


def loaded(**changes):
    entry = {"IMAGES": "images", "LABELS": "labels", "CLASSES": ["cat", "dog"]} | changes
    return load_semantic("mine", {"mine": entry}, "DATASETS.TRAIN")


def first(data) -> list[int]:
    return data.labels.of(data.records[0]).reshape(-1).tolist()


def relabel(root, *values):
    draw(root / "labels" / "a.png", values)


def refused(match: str, error=ConfigError, **changes):
    with pytest.raises(error, match=match):
        first(loaded(**changes))


def test_images_and_labels_pair_by_stem(root):
    data = loaded()
    assert [r["sem_seg_file_name"] for r in data.records] == [f"{root}/labels/a.png", f"{root}/labels/b.png"]
    assert (data.classes, data.source, first(data)[:2]) == (("cat", "dog"), f"{root}/images", [0, 1])


def test_sub_folders_pair_too(root):
    draw(root / "images" / "deep" / "c.jpg")
    draw(root / "labels" / "deep" / "c.png", (0,))
    assert loaded().records[2]["sem_seg_file_name"] == f"{root}/labels/deep/c.png"


def test_suffixes_follow_the_stem(root):
    draw(root / "both" / "x_photo.png")
    draw(root / "both" / "x_L.png", (1,))
    data = loaded(IMAGES="both", LABELS="both", IMAGE_SUFFIX="_photo.png", LABEL_SUFFIX="_L.png")
    assert (len(data.records), first(data)[0]) == (1, 1)


def test_a_list_chooses_the_images(root):
    (root / "chosen.txt").write_text("b\n")
    assert [r["file_name"] for r in loaded(LIST="chosen.txt").records] == [f"{root}/images/b.jpg"]


def test_classes_may_stand_in_a_text_file(root):
    (root / "names.txt").write_text("cat\n\nhot dog\n")
    assert loaded(CLASSES="names.txt").classes == ("cat", "hot dog")


def test_255_is_ignored_unless_told_otherwise(root):
    relabel(root, 1, 255)
    assert first(loaded())[:2] == [1, 255]
    refused("pixels hold 255, allowed: 0-1, 7$", DataError, IGNORE=[7])


def test_other_values_are_refused_or_ignored_as_told(root):
    relabel(root, 1, 9)
    refused("a.png: 3 pixels hold 9, allowed: 0-1, 255$", DataError)
    assert first(loaded(IGNORE=["others"]))[:2] == [1, 255]


@pytest.mark.parametrize("key", [7, "7"])
@pytest.mark.parametrize("target", ["dog", 1])
def test_a_map_leads_from_values_to_classes(key, target, root):
    relabel(root, 7, 3)
    assert first(loaded(MAP={key: target, 3: "cat"}))[:2] == [1, 0]


def test_a_map_may_lead_from_colors_to_classes(root):
    relabel(root, (0, 255, 0), (255, 0, 0), (0, 0, 0))
    data = loaded(MAP=COLORS, IGNORE=["0,0,0"])
    assert first(data)[:3] == [1, 0, 255]
    assert data.colors == ((255, 0, 0), (0, 255, 0))


def test_the_first_color_of_a_class_is_its_own():
    assert loaded(MAP=COLORS | {"9,9,9": "cat"}).colors == ((255, 0, 0), (0, 255, 0))


def test_a_color_outside_the_map_is_refused(root):
    relabel(root, (0, 255, 0), (1, 2, 3))
    refused(r"a.png: 3 pixels hold \(1,2,3\), allowed: \(0,255,0\), \(255,0,0\)$", DataError, MAP=COLORS)


def test_an_entry_comes_through_the_config(root):
    relabel(root, 7, 3, 11)
    entry = {"IMAGES": "images", "LABELS": "labels", "CLASSES": ["cat", "dog"], "MAP": {7: "dog", 3: 0}, "IGNORE": [11]}
    cfg = merge(defaults_of("torchvision"), {"DATASETS": {"CUSTOM": {"mine": entry}}})
    read_back = CfgNode.load_cfg(cfg.dump())
    assert first(load_semantic("mine", read_back.DATASETS.CUSTOM))[:3] == [1, 0, 255]


def test_a_turned_photograph_has_the_size_it_is_seen_in(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(root / "images" / "a.jpg", size=(2, 3), exif=exif)
    assert (loaded().records[0]["height"], loaded().records[0]["width"]) == (2, 3)


def test_a_missing_label_is_refused(root):
    (root / "labels" / "b.png").unlink()
    refused("images/b.jpg: its label file .*/labels/b.png does not exist$", DataError)


def test_a_label_of_another_size_is_refused(root):
    draw(root / "labels" / "b.png", (0,), size=(4, 3))
    refused("labels/b.png: 4 x 3 pixels, its image .*/images/b.jpg has 3 x 2$", DataError)


@pytest.mark.parametrize("file", ["images/b.jpg", "labels/b.png"])
def test_a_corrupt_file_is_refused(file, root):
    (root / file).write_bytes(b"no picture")
    refused(f"{file}: not a readable image: ", DataError)


def test_two_images_of_one_stem_are_refused(root):
    draw(root / "images" / "b.png")
    refused("images/b.png and b.jpg have one stem, expected one image a label$", DataError)


def test_an_empty_folder_is_refused(root):
    refused("images: the data set has no images$", DataError, IMAGE_SUFFIX=".tif")


@pytest.mark.parametrize("key", ["IMAGES", "LABELS", "LIST", "CLASSES"])
def test_a_missing_path_is_refused(key):
    refused(f"^data set 'mine': {key} .*/gone does not exist; relative paths start at", DataError, **{key: "gone"})


@pytest.mark.parametrize("key", ["IMAGES", "LABELS", "LIST", "IMAGE_SUFFIX", "LABEL_SUFFIX"])
def test_a_value_that_is_no_text_is_refused(key):
    refused(rf"^DATASETS.CUSTOM.mine.{key} is \['x'\], expected a text$", **{key: ["x"]})


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], [1, 2], 3, [str(i) for i in range(255)]])
def test_classes_that_are_no_names_are_refused(classes):
    text = r"^DATASETS.CUSTOM.mine.CLASSES is .*, expected a text file or a list of 1 to 254 different names$"
    refused(text, CLASSES=classes)


def test_classes_in_a_file_that_is_no_text_are_refused():
    refused(r"images/a.jpg: not a readable list of classes: ", DataError, CLASSES="images/a.jpg")


@pytest.mark.parametrize("meaning", [{}, [1, 2], "cat"])
def test_a_map_that_is_no_group_is_refused(meaning):
    refused(r"^DATASETS.CUSTOM.mine.MAP is .*, expected a group: value or \"red,green,blue\" -> class$", MAP=meaning)


@pytest.mark.parametrize("value", ["red", "1,2", "1,2,256", -1, 65536, True, "1,2,3,4"])
@pytest.mark.parametrize("key", ["MAP", "IGNORE"])
def test_a_value_that_no_label_can_hold_is_refused(key, value):
    text = rf"^DATASETS.CUSTOM.mine.{key} has {value!r}, expected a number from 0 to 65535 or a color \"red,green,"
    refused(text, **{key: {value: "cat"} if key == "MAP" else [value]})


def test_a_map_to_an_unknown_class_is_refused():
    text = r"^DATASETS.CUSTOM.mine.MAP leads to 'cot', no class or index below 2; did you mean cat\?$"
    refused(text, MAP={0: "cot"})


def test_numbers_and_colors_in_one_map_are_refused():
    refused(r"^DATASETS.CUSTOM.mine.MAP has both numbers and colors, expected one kind$", MAP=COLORS | {1: "cat"})


def test_a_number_to_ignore_among_colors_is_refused():
    refused(r"^DATASETS.CUSTOM.mine.IGNORE has 255, expected colors as in the files$", MAP=COLORS, IGNORE=[255])


def test_a_class_to_ignore_is_refused():
    refused(r"^DATASETS.CUSTOM.mine.IGNORE has 1, which is the class 'dog'$", IGNORE=[1])


def test_a_single_value_to_ignore_is_refused():
    refused(r"^DATASETS.CUSTOM.mine.IGNORE is 255, expected a list of values, such as \[11, 255\]$", IGNORE=255)
