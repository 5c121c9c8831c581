"""Public segmentation data sets in the folders they come in."""

import pytest

from kd2.data.segmentation.semantic import load_semantic
from kd2.distill import ConfigError, DataError

from ...helpers.image_files import draw


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def loaded(**entry):
    return load_semantic("mine", {"mine": entry}, "DATASETS.TRAIN")


def first(data) -> list[int]:
    """The classes of the first six pixels of the first label."""
    return data.labels.of(data.records[0]).reshape(-1).tolist()[:6]


def names(data, key: str = "file_name") -> list[str]:
    return [record[key].rsplit("/", 1)[1] for record in data.records]


def camvid(root, split="train", values=(0, 10, 11, 255)):
    draw(root / split / "a.png")
    draw(root / f"{split}annot" / "a.png", values)


def cityscapes(root, name, values, labels="gtFine", city="ulm"):
    draw(root / "leftImg8bit" / "train" / city / f"{city}_0_leftImg8bit.png")
    draw(root / labels / "train" / city / f"{city}_0_{labels}_{name}.png", values)


def ade20k(root, split="training", values=(0, 1, 150)):
    draw(root / "images" / split / "a.jpg")
    draw(root / "annotations" / split / "a.png", values)


def voc(root, labels="SegmentationClass", values=(0, 20, 255)):
    for stem in ("a", "b"):
        draw(root / "JPEGImages" / f"{stem}.jpg")
        draw(root / labels / f"{stem}.png", values)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("b\n")


def coco_stuff(root, values=(0, 181, 255)):
    draw(root / "val2017" / "a.jpg")
    draw(root / "stuffthingmaps" / "val2017" / "a.png", values)


def test_a_record_has_the_standard_keys(root):
    camvid(root)
    assert loaded(CAMVID=".", SPLIT="train").records == [
        {
            "file_name": f"{root}/./train/a.png",
            "sem_seg_file_name": f"{root}/./trainannot/a.png",
            "height": 2,
            "width": 3,
            "image_id": 0,
            "dataset": "mine",
            "annotations": [],
        }
    ]


def test_camvid_has_11_classes_and_void(root):
    camvid(root)
    data = loaded(CAMVID=".", SPLIT="train")
    assert (len(data.classes), data.classes[10], first(data)[:4]) == (11, "Bicyclist", [0, 10, 255, 255])


def test_cityscapes_ids_become_train_ids(root):
    cityscapes(root, "labelIds", (0, 7, 33, 29, 11, 255))
    data = loaded(CITYSCAPES=".", SPLIT="train")
    assert (len(data.classes), first(data)) == (19, [255, 0, 18, 255, 2, 255])


def test_cityscapes_train_ids_are_taken_when_they_are_there(root):
    cityscapes(root, "labelIds", (7,))
    cityscapes(root, "labelTrainIds", (18, 255))
    assert first(loaded(CITYSCAPES=".", SPLIT="train"))[:2] == [18, 255]


def test_a_city_without_train_ids_beside_others_is_refused(root):
    cityscapes(root, "labelIds", (7,), city="aachen")
    cityscapes(root, "labelTrainIds", (18,))
    text = r"aachen_0_leftImg8bit.png: its label file .*/aachen_0_gtFine_labelTrainIds.png does not exist$"
    with pytest.raises(DataError, match=text):
        loaded(CITYSCAPES=".", SPLIT="train")


def test_coarse_cityscapes_labels_are_read(root):
    cityscapes(root, "labelIds", (8,), labels="gtCoarse")
    assert first(loaded(CITYSCAPES=".", SPLIT="train", LABELS="gtCoarse"))[0] == 1


def test_ade20k_counts_from_one(root):
    ade20k(root)
    data = loaded(ADE20K=".", SPLIT="training")
    assert (len(data.classes), first(data)[:3]) == (150, [255, 0, 149])


def test_voc_reads_the_listed_images_and_ignores_the_border(root):
    voc(root)
    data = loaded(VOC_SEG=".", SPLIT="train")
    assert (len(data.classes), names(data), first(data)[:3]) == (21, ["b.jpg"], [0, 20, 255])


def test_voc_takes_another_label_folder(root):
    voc(root, "SegmentationClassAug", (3,))
    assert first(loaded(VOC_SEG=".", SPLIT="train", LABELS="SegmentationClassAug"))[0] == 3


def test_voc_has_its_own_colors(root):
    voc(root)
    colors = loaded(VOC_SEG=".", SPLIT="train").colors
    assert colors[:4] + colors[20:] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 64, 128))


def test_coco_stuff_has_171_classes(root):
    coco_stuff(root)
    data = loaded(COCO_STUFF=".", SPLIT="val2017")
    assert (len(data.classes), data.classes[170], first(data)[:3]) == (171, "wood", [0, 170, 255])


def test_unused_ids_of_coco_stuff_are_ignored(root):
    coco_stuff(root, (10, 11, 12))
    data = loaded(COCO_STUFF=".", SPLIT="val2017")
    assert (data.classes[10:12], first(data)[:3]) == (("fire hydrant", "stop sign"), [10, 255, 11])


@pytest.mark.parametrize(
    ("make", "entry", "found", "allowed"),
    [
        (lambda r: camvid(r, values=(12,)), {"CAMVID": ".", "SPLIT": "train"}, "12", "0-11, 255"),
        (lambda r: cityscapes(r, "labelIds", (34,)), {"CITYSCAPES": ".", "SPLIT": "train"}, "34", "0-33, 255"),
        (lambda r: cityscapes(r, "labelTrainIds", (19,)), {"CITYSCAPES": ".", "SPLIT": "train"}, "19", "0-18, 255"),
        (lambda r: ade20k(r, values=(151,)), {"ADE20K": ".", "SPLIT": "training"}, "151", "0-150"),
        (lambda r: voc(r, values=(21,)), {"VOC_SEG": ".", "SPLIT": "train"}, "21", "0-20, 255"),
        (lambda r: coco_stuff(r, values=(182,)), {"COCO_STUFF": ".", "SPLIT": "val2017"}, "182", "0-181, 255"),
    ],
    ids=["camvid", "cityscapes", "cityscapes train ids", "ade20k", "voc", "coco stuff"],
)
def test_a_value_outside_the_classes_is_refused(make, entry, found, allowed, root):
    make(root)
    with pytest.raises(DataError, match=rf"pixels hold {found}, allowed: {allowed}$"):
        first(loaded(**entry))


def test_images_without_labels_have_no_classes(root):
    draw(root / "more" / "deep" / "b.jpg")
    draw(root / "more" / "c.PNG", size=(5, 4))
    data = loaded(UNLABELED="more")
    assert (data.classes, names(data), first(data)) == ((), ["c.PNG", "b.jpg"], [255] * 6)
    assert not any("sem_seg_file_name" in record for record in data.records)


def test_hidden_files_are_no_images(root):
    draw(root / "more" / "b.jpg")
    (root / "more" / "._b.jpg").write_text("left by an operating system")
    assert names(loaded(UNLABELED="more")) == ["b.jpg"]


def test_a_folder_without_images_is_refused(root):
    (root / "more").mkdir()
    with pytest.raises(DataError, match=r"more: the data set has no images$"):
        loaded(UNLABELED="more")


def test_an_unknown_split_is_refused(root):
    camvid(root)
    with pytest.raises(DataError, match=r"^folder .*/trian does not exist$"):
        loaded(CAMVID=".", SPLIT="trian")


def test_a_missing_list_is_refused(root):
    voc(root)
    with pytest.raises(DataError, match=r"ImageSets/Segmentation/val.txt: No such file or directory$"):
        loaded(VOC_SEG=".", SPLIT="val")


def test_an_empty_list_is_refused(root):
    voc(root)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"Segmentation/train.txt: the data set has no images$"):
        loaded(VOC_SEG=".", SPLIT="train")


def test_a_listed_image_that_is_missing_is_refused(root):
    voc(root)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nz\n")
    with pytest.raises(DataError, match=r"train.txt: 'z' has no image in .*JPEGImages$"):
        loaded(VOC_SEG=".", SPLIT="train")


def test_a_missing_folder_is_refused_with_the_data_root(root):
    with pytest.raises(DataError, match=r"^data set 'mine': CAMVID .*/gone does not exist; relative paths start at"):
        loaded(CAMVID="gone", SPLIT="train")


@pytest.mark.parametrize(
    "entry", [{"CAMVID": "."}, {"CAMVID": ".", "SPLIT": "train", "LABELS": "x"}, {"SPLIT": "train"}, {}]
)
def test_an_entry_without_the_right_keys_is_refused(entry):
    text = r"^DATASETS.CUSTOM.mine has the keys \[.*\], expected IMAGES, LABELS and CLASSES; one of CITYSCAPES, "
    with pytest.raises(ConfigError, match=text):
        loaded(**entry)


def test_an_entry_that_is_no_group_is_refused():
    with pytest.raises(ConfigError, match=r"^DATASETS.CUSTOM.mine is 'camvid', expected a group of keys: IMAGES"):
        load_semantic("mine", {"mine": "camvid"}, "DATASETS.TRAIN")


def test_a_split_that_is_no_text_is_refused(root):
    with pytest.raises(ConfigError, match=r"^DATASETS.CUSTOM.mine.SPLIT is 2012, expected a text$"):
        loaded(VOC_SEG=".", SPLIT=2012)


def test_an_unknown_name_is_refused_with_near_names():
    text = r"^DATASETS.TEST: no data set 'ade20k_sem_seg_vall' .*; did you mean ade20k_sem_seg_val"
    with pytest.raises(ConfigError, match=text):
        load_semantic("ade20k_sem_seg_vall", {}, "DATASETS.TEST")


def test_the_names_of_detectron2_lead_to_the_same_folders(root):
    ade20k(root / "ADEChallengeData2016", "validation")
    cityscapes(root / "cityscapes", "labelTrainIds", (0,))
    for name in ("ade20k_sem_seg_val", "cityscapes_fine_sem_seg_train"):
        assert len(load_semantic(name, {}).records) == 1
