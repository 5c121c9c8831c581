"""What tools/check_data.py reads on the road of Detectron2: its own data sets, and those of DATASETS.CUSTOM."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import numpy as np
from PIL import Image

from kd2 import engine
from kd2.data.survey import survey
from kd2.distill import DataError

from ...helpers.coco_2017 import write_coco_2017
from ...helpers.d2_builtin import built_in
from ...helpers.d2_semantic import semantic_config
from ...helpers.d2_tiny import write_config
from .test_d2_perfect_cityscapes import HEIGHT, PAINTED, WIDTH, stem, write_cityscapes
from .test_d2_perfect_voc import write_voc


def rows(load) -> dict[str, tuple[int, str]]:
    return {what: (count, more) for what, count, more in survey(load()).rows}


def sets(config: str, *names: str) -> dict:
    return engine.data_sets(config, ["DATASETS.TRAIN", str(names)])


def test_own_data_sets_are_those_of_the_readers_of_kd2(data, pixels, tmp_path):
    boxes = rows(sets(write_config(tmp_path, data), "tiny")["tiny"])
    assert boxes["images"] == (6, "0 without objects") and boxes["class bar"] == (6, "in 6 images")
    classes = rows(sets(semantic_config(tmp_path, pixels), "shapes")["shapes"])
    assert classes["images"] == (4, "0 without labels") and "class ground" in classes


def test_images_without_labels_are_named_once(pixels, tmp_path):
    more = {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 2}}}
    found = engine.data_sets(semantic_config(tmp_path, pixels, more), ["DATASETS.TEST", "('shapes',)"])
    assert list(found) == ["shapes", "more"]
    assert rows(found["more"])["images"] == (4, "4 without labels")


def test_coco_is_counted(data, tmp_path):
    write_coco_2017(tmp_path)
    with built_in(tmp_path):
        found = rows(sets(write_config(tmp_path, data), "coco_2017_val")["coco_2017_val"])
    assert found["images"] == (4, "0 without objects") and found["objects"][0] == 12


def test_pascal_voc_is_counted_in_pixels_from_zero(data, tmp_path):
    write_voc(tmp_path, "2012")
    (tmp_path / "VOC2012" / "JPEGImages").mkdir()
    for name in ("000005", "000007"):
        Image.new("RGB", (120, 90)).save(tmp_path / "VOC2012" / "JPEGImages" / f"{name}.jpg")
    with built_in(tmp_path):
        load = sets(write_config(tmp_path, data), "voc_2012_val")["voc_2012_val"]
        found = rows(load)
        assert load().records[0]["annotations"][0]["bbox"] == [0, 0, 40, 50]
    assert found["class person"] == (2, "in 2 images") and found["class dog"] == (1, "in 1 images")


def test_cityscapes_is_counted_by_pixels(pixels, tmp_path):
    write_cityscapes(tmp_path)
    with built_in(tmp_path):
        name = "cityscapes_fine_sem_seg_val"
        found = rows(sets(semantic_config(tmp_path, pixels), name)[name])
    assert found["images"] == (2, "0 without labels") and found["class car"][0] == 1 and found["class train"][0] == 0


def test_raw_ids_in_the_place_of_train_ids_are_refused(pixels, tmp_path):
    write_cityscapes(tmp_path)
    city = next(iter(PAINTED))
    file = tmp_path / "cityscapes" / "gtFine" / "val" / city / f"{stem(city)}_gtFine_labelTrainIds.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 26, np.uint8)).save(file)
    with built_in(tmp_path):
        name = "cityscapes_fine_sem_seg_val"
        (text,) = survey(sets(semantic_config(tmp_path, pixels), name)[name]()).refused
    assert f"{file}: {HEIGHT * WIDTH} pixels hold 26, allowed: 0-18, 255" in text


def test_a_data_set_that_is_not_there_is_refused(data, tmp_path):
    with built_in(tmp_path), pytest.raises(DataError, match="data set 'voc_2007_val' cannot be used"):
        sets(write_config(tmp_path, data), "voc_2007_val")["voc_2007_val"]()
