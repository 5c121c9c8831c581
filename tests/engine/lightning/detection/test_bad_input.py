"""Bad input ends a run with an error that says what to do."""

import json
import shutil

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from ...helpers import tiny
import torch

from kd2.distill import ConfigError, DataError


@pytest.fixture
def student(tmp_path, data):
    """The config of a plain run of 6 iterations with checkpoints at 3 and 6."""
    return tiny.write_config(tmp_path, data)


@pytest.fixture
def own_data(tmp_path, data):
    """A copy of the data set that a test may spoil; its folder and content."""
    shutil.copytree(data, tmp_path / "own")
    return tmp_path / "own", json.loads((tmp_path / "own" / "coco.json").read_text())


def test_an_output_folder_below_a_file_is_refused(student, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^OUTPUT_DIR '.*file/out' is not writable: Not a directory$"):
        tiny.train(student, "OUTPUT_DIR", str(tmp_path / "file" / "out"))


def test_an_output_folder_that_is_a_file_is_refused(student, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^OUTPUT_DIR '.*file' is not writable: File exists$"):
        tiny.train(student, "OUTPUT_DIR", str(tmp_path / "file"))


def test_an_image_that_does_not_decode_is_named(tmp_path, own_data):
    (own_data[0] / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="images/2.png: cannot be used: cannot identify image file"):
        tiny.train(tiny.write_config(tmp_path, own_data[0]))


def test_other_classes_than_the_configs_are_refused(student):
    text = "^MODEL.RETINANET.NUM_CLASSES is 3, but .*coco.json has 2 classes: box, bar$"
    with pytest.raises(ConfigError, match=text):
        tiny.train(student, "MODEL.RETINANET.NUM_CLASSES", "3")


def test_the_rcnns_class_count_is_another_key(student):
    with pytest.raises(ConfigError, match="^MODEL.ROI_HEADS.NUM_CLASSES is 3, but .*coco.json has 2 classes"):
        tiny.train(student, "MODEL.META_ARCHITECTURE", "FasterRCNN", "MODEL.ROI_HEADS.NUM_CLASSES", "3")


def test_a_test_set_with_other_classes_is_refused(student, own_data):
    folder, content = own_data
    content["categories"][0]["name"] = "bin"
    (folder / "coco.json").write_text(json.dumps(content))
    other = repr({"JSON": str(folder / "coco.json"), "IMAGES": str(folder / "images")})
    text = r"^DATASETS: tiny has the classes \('box', 'bar'\), other \('bin', 'bar'\)$"
    with pytest.raises(ConfigError, match=text):
        tiny.train(student, "DATASETS.CUSTOM.other", other, "DATASETS.TEST", "['other']")


def test_no_training_set_is_refused(student):
    text = "^DATASETS.TRAIN is empty, expected names of DATASETS.CUSTOM or of coco_2017_train"
    with pytest.raises(ConfigError, match=text):
        tiny.train(student, "DATASETS.TRAIN", "[]")


def test_an_empty_data_set_is_refused(tmp_path, own_data):
    (own_data[0] / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(DataError, match="coco.json: the data set has no images$"):
        tiny.train(tiny.write_config(tmp_path, own_data[0]))


def test_a_data_set_of_crowd_only_is_refused(tmp_path, own_data):
    folder, content = own_data
    content["annotations"] = [a | {"iscrowd": 1} for a in content["annotations"]]
    (folder / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="coco.json: no image has an annotation that is not crowd$"):
        tiny.train(tiny.write_config(tmp_path, folder))


@pytest.mark.parametrize("size", ["0", "-2"])
def test_a_batch_of_nothing_is_refused(student, size):
    with pytest.raises(ConfigError, match=f"^SOLVER.IMS_PER_BATCH is {size}, expected a multiple of 1 processes$"):
        tiny.train(student, "SOLVER.IMS_PER_BATCH", size)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("SOLVER.OPTIMIZER", "AdamX", r".* is 'AdamX'; did you mean AdamW\?"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupStep", ".* is 'WarmupStep'; did you mean WarmupMultiStepLR"),
        ("SOLVER.AMP.PRECISION", "bf17", r".* is 'bf17'; did you mean bf16, fp16\?"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", ".* is 'norm'; choices: value, full_model"),
    ],
)
def test_an_unknown_choice_is_refused(student, key, value, text):
    with pytest.raises(ConfigError, match=f"^{key}{text.removeprefix('.*')}"):
        tiny.train(student, key, value)


@pytest.mark.parametrize(
    "key", ["SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD", "DATALOADER.NUM_WORKERS"]
)
def test_a_negative_number_is_refused(student, key):
    with pytest.raises(ConfigError, match=f"^{key} is -1, expected 0 or more$"):
        tiny.train(student, key, "-1")


def test_an_unknown_device_is_refused(student):
    with pytest.raises(ConfigError, match=r"^MODEL.DEVICE is 'gpu'; did you mean cpu\?$"):
        tiny.train(student, "MODEL.DEVICE", "gpu")


def test_a_gpu_that_is_not_there_is_refused(student, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="^MODEL.DEVICE is 'cuda', but torch finds no GPU; auto takes what there is$"):
        tiny.train(student, "MODEL.DEVICE", "cuda")


def test_several_machines_need_an_address(student):
    with pytest.raises(ConfigError, match="^--dist-url is 'auto', expected tcp://HOST:PORT for several machines$"):
        tiny.train(student, num_machines=2)


def test_evaluation_needs_weights(student):
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate$"):
        tiny.train(student, eval_only=True)


def test_evaluation_refuses_weights_of_another_model(student, rcnn_teacher):
    weights = str(rcnn_teacher / "out" / "model_final.pth")
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS: .*model_final.pth does not fit the model"):
        tiny.train(student, "MODEL.WEIGHTS", weights, "DATASETS.TEST", "['tiny']", eval_only=True)


def test_a_resume_file_is_no_weights_file(student, tmp_path):
    tiny.train(student)
    weights = str(tmp_path / "out" / "model_0000003.ckpt")
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS: .*model_0000003.ckpt is no state dict of a model$"):
        tiny.train(student, "MODEL.WEIGHTS", weights)


def test_unlabeled_images_are_not_for_detectors(tmp_path, data):
    text = r"^KD.UNLABELED.DATASETS is \['more'\], expected \[\]: images without labels are for segmentation"
    with pytest.raises(ConfigError, match=text):
        tiny.train(tiny.write_config(tmp_path, data), "KD.UNLABELED.DATASETS", "['more']")
