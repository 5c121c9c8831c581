"""The scripts of datasets/, on tiny trees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd2.data.segmentation.semantic import load_semantic

from ...helpers.image_files import draw

SKY, BRIDGE, VOID = (128, 128, 128), (0, 128, 64), (0, 0, 0)


def labels_of(entry: dict) -> dict[str, list[int]]:
    """Stem -> the first three classes, as kd2 reads what a script wrote."""
    data = load_semantic("mine", {"mine": entry})
    return {Path(r["file_name"]).stem: data.labels.of(r).reshape(-1).tolist()[:3] for r in data.records}


def camvid(root, *stems: str, colors=(SKY, BRIDGE, VOID)) -> tuple[str, ...]:
    for stem in stems:
        draw(root / "raw" / f"{stem}.png", [SKY], size=(6, 4))
        draw(root / "approved" / f"{stem}_L.png", colors, size=(6, 4))
    return "--images", "raw", "--labels", "approved", "--output", "camvid"


def test_camvid_is_split_as_segnet_does(run, root):
    places = {
        "train": ["0001TP_008520", "0006R0_f00930", "0016E5_07920", "0016E5_08190"],
        "val": ["0016E5_07959", "0016E5_08159"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }
    code, said, _ = run("prepare_camvid.py", *camvid(root, *sum(places.values(), [])))
    assert (code, said) == (0, "camvid: 4 train, 2 val, 2 test images\n")
    for split, stems in places.items():
        assert sorted(labels_of({"CAMVID": "camvid", "SPLIT": split})) == stems


def test_colors_of_camvid_become_11_classes(run, root):
    run("prepare_camvid.py", *camvid(root, "0006R0_f00930"))
    assert labels_of({"CAMVID": "camvid", "SPLIT": "train"}) == {"0006R0_f00930": [0, 1, 255]}
    assert np.unique(np.asarray(Image.open("camvid/trainannot/0006R0_f00930.png"))).tolist() == [0, 1, 11]


def test_camvid_can_be_made_smaller(run, root):
    run("prepare_camvid.py", *camvid(root, "0006R0_f00930"), "--size", 3, 2)
    record = load_semantic("mine", {"mine": {"CAMVID": "camvid", "SPLIT": "train"}}).records[0]
    assert (record["width"], record["height"]) == (3, 2)


@pytest.mark.parametrize(
    ("stem", "colors", "text"),
    [
        ("0006R0_f00930", [(1, 2, 3)], "0006R0_f00930_L.png: 24 pixels hold (1,2,3), allowed: "),
        ("holiday", [SKY], "picture 'holiday' is not of CamVid, expected names such as 0016E5_07959"),
    ],
)
def test_what_is_not_camvid_leaves_no_data_set(stem, colors, text, run, root):
    code, _, errors = run("prepare_camvid.py", *camvid(root, stem, colors=colors))
    assert code == 1 and not list(root.glob("camvid*"))
    assert text in errors


def test_an_existing_folder_is_never_written_to(run, root):
    (root / "camvid").mkdir()
    code, _, errors = run("prepare_camvid.py", *camvid(root, "0006R0_f00930"))
    assert (code, errors) == (1, "error: camvid exists, expected a folder still to be made\n")
    assert not list((root / "camvid").iterdir())


def test_a_folder_that_is_called_partial_is_not_touched(run, root):
    (root / "camvid.partial").mkdir()
    (root / "camvid.partial" / "mine").touch()
    code, _, _ = run("prepare_camvid.py", *camvid(root, "0006R0_f00930"))
    assert (code, [p.name for p in (root / "camvid.partial").iterdir()]) == (0, ["mine"])


def test_a_list_of_that_name_is_not_written_over(run, root):
    pytest.importorskip("scipy.io", reason="SBD comes in MATLAB files")
    lists = root / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train_aug.txt").write_text("mine")
    code, _, errors = run("prepare_voc_seg.py", "--voc", "VOC2012", "--sbd", "sbd")
    text = "error: VOC2012/ImageSets/Segmentation/train_aug.txt exists, expected a list still to be made\n"
    assert (code, errors, (lists / "train_aug.txt").read_text()) == (1, text, "mine")


def test_sbd_adds_training_images_to_voc(run, root):
    io = pytest.importorskip("scipy.io", reason="SBD comes in MATLAB files")
    for stem, value in (("own", 1), ("val", 2)):
        draw(root / "VOC2012" / "SegmentationClass" / f"{stem}.png", (value, 255))
    (root / "VOC2012" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").write_text("val\n")
    (root / "sbd" / "cls").mkdir(parents=True)
    for stem in ("own", "val", "sbd"):
        draw(root / "VOC2012" / "JPEGImages" / f"{stem}.jpg")
        label = np.full((2, 3), 7, dtype=np.uint8)
        io.savemat(root / "sbd" / "cls" / f"{stem}.mat", {"GTcls": {"Segmentation": label}})
    code, said, _ = run("prepare_voc_seg.py", "--voc", "VOC2012", "--sbd", "sbd")
    assert (code, said) == (0, "VOC2012/SegmentationClassAug: 2 labels of VOC, 1 of SBD; 2 images in train_aug\n")
    entry = {"VOC_SEG": "VOC2012", "SPLIT": "train_aug", "LABELS": "SegmentationClassAug"}
    assert labels_of(entry) == {"own": [1, 255, 1], "sbd": [7, 7, 7]}


def stuff10k(root, ids) -> tuple[str, ...]:
    io = pytest.importorskip("scipy.io", reason="COCO-Stuff 10k comes in MATLAB files")
    for split in ("train", "test"):
        draw(root / "raw" / "images" / f"{split}_1.jpg")
        for folder in ("annotations", "imageLists"):
            (root / "raw" / folder).mkdir(exist_ok=True)
        (root / "raw" / "imageLists" / f"{split}.txt").write_text(f"{split}_1\n")
        label = np.resize(ids, (2, 3)).astype(np.uint16)
        io.savemat(root / "raw" / "annotations" / f"{split}_1.mat", {"S": label})
    return "--source", "raw", "--output", "stuff"


def test_coco_stuff_10k_gets_the_layout_of_the_full_one(run, root):
    code, said, _ = run("prepare_coco_stuff10k.py", *stuff10k(root, [0, 1, 182]))
    assert (code, said) == (0, "stuff: 1 train, 1 test images\n")
    assert labels_of({"COCO_STUFF": "stuff", "SPLIT": "test"}) == {"test_1": [255, 0, 170]}


def test_an_id_beyond_coco_stuff_is_refused(run, root):
    code, _, errors = run("prepare_coco_stuff10k.py", *stuff10k(root, [1, 183]))
    assert (code, errors) == (1, "error: raw/annotations/train_1.mat: holds ids from 1 to 183, expected 0 to 182\n")
