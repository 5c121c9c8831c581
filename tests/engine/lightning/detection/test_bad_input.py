"""Bad input ends a run with an error that says what to do."""

import json
import os
import shutil

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from PIL import Image

from kd2.distill import ConfigError, DataError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture
def student(tmp_path, data):
    """The config of a plain run of 6 iterations with checkpoints at 3 and 6."""
    return tiny.write_config(tmp_path, data)


@pytest.fixture
def own_data(tmp_path, data):
    """A copy of the data set that a test may spoil; its folder and content."""
    shutil.copytree(data, tmp_path / "own")
    return tmp_path / "own", json.loads((tmp_path / "own" / "coco.json").read_text())


def test_an_image_that_does_not_decode_is_named(tmp_path, own_data):
    os.truncate(own_data[0] / "images" / "2.png", 500)  # the header is whole
    with pytest.raises(DataError, match="images/2.png: not a readable image: "):
        runs.train(tiny.write_config(tmp_path, own_data[0]))


@pytest.fixture
def thin(own_data):
    """A data set with one image, of 2000 x 2 pixels, as an entry of ``DATASETS.CUSTOM``."""
    folder, content = own_data
    Image.new("RGB", (2000, 2)).save(folder / "images" / "0.png")
    content["images"] = [content["images"][0] | {"width": 2000, "height": 2}]
    content["annotations"] = [content["annotations"][0] | {"bbox": [10, 0, 900, 2], "segmentation": []}]
    (folder / "coco.json").write_text(json.dumps(content))
    return repr({"JSON": str(folder / "coco.json"), "IMAGES": str(folder / "images")})


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
@pytest.mark.parametrize("jitter", ["False", "True"])
def test_an_image_of_which_resizing_leaves_nothing_is_named(student, thin, split, jitter):
    options = ["DATASETS.CUSTOM.thin", thin, f"DATASETS.{split}", "['thin']", "INPUT.SCALE_JITTER.ENABLED", jitter]
    with pytest.raises(DataError, match=r"images/0.png: cannot be used: its 2000 x 2 pixels become \d+ x 0 by the"):
        runs.train(student, *options, "INPUT.SCALE_JITTER.SIZE", "[64, 64]", "SOLVER.MAX_ITER", "1")


def test_other_classes_than_the_configs_are_refused(student):
    text = "^MODEL.RETINANET.NUM_CLASSES is 3, but .*coco.json has 2 classes: box, bar$"
    with pytest.raises(ConfigError, match=text):
        runs.train(student, "MODEL.RETINANET.NUM_CLASSES", "3")


def test_the_rcnns_class_count_is_another_key(student):
    with pytest.raises(ConfigError, match="^MODEL.ROI_HEADS.NUM_CLASSES is 3, but .*coco.json has 2 classes"):
        runs.train(student, "MODEL.META_ARCHITECTURE", "FasterRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", "3")


def test_a_test_set_with_other_classes_is_refused(student, own_data):
    folder, content = own_data
    content["categories"][0]["name"] = "bin"
    (folder / "coco.json").write_text(json.dumps(content))
    other = repr({"JSON": str(folder / "coco.json"), "IMAGES": str(folder / "images")})
    text = "coco.json has the classes bin, bar, the run's are box, bar: there is no 'bin'; CLASSES in its entry"
    with pytest.raises(DataError, match=text):
        runs.train(student, "DATASETS.CUSTOM.other", other, "DATASETS.TEST", "['other']")


def test_no_training_set_is_refused(student):
    text = "^DATASETS.TRAIN is empty, expected names of DATASETS.CUSTOM or of coco_2017_train"
    with pytest.raises(ConfigError, match=text):
        runs.train(student, "DATASETS.TRAIN", "[]")


def test_an_empty_data_set_is_refused(tmp_path, own_data):
    (own_data[0] / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(DataError, match="coco.json: the data set has no images$"):
        runs.train(tiny.write_config(tmp_path, own_data[0]))


def test_a_data_set_of_crowd_only_is_refused(tmp_path, own_data):
    folder, content = own_data
    content["annotations"] = [a | {"iscrowd": 1} for a in content["annotations"]]
    (folder / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="coco.json: no image has an annotation that is not crowd$"):
        runs.train(tiny.write_config(tmp_path, folder))


def test_evaluation_refuses_weights_of_another_model(student, rcnn_teacher):
    weights = str(rcnn_teacher / "out" / "model_final.pth")
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS: .*model_final.pth does not fit the model"):
        runs.train(student, "MODEL.WEIGHTS", weights, "DATASETS.TEST", "['tiny']", eval_only=True)
