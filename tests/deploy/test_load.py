import os
import shutil

import numpy as np
import pytest
import torch

import kd2
from kd2 import engine
from kd2.distill import ConfigError
from kd2.engine.flow import trained_student

CLASSES = {"detector": ["box", "bar"], "segmenter": ["ground", "box", "bar", "ball", "bird"]}


def evaluated(run):
    """What the road's own evaluation makes of the first picture of the test set, and that picture's file."""
    experiment = engine.for_evaluation(os.path.join(run, "config.yaml"), [])
    (data,) = experiment.load_data("TEST")
    experiment.check([], [data])
    student = trained_student(experiment, os.path.join(run, "model_final.pth"), "").eval()
    batch = next(iter(experiment.test_loader(data, 0, 1))).to(torch.device("cpu"))
    with torch.no_grad():
        return experiment.predict(student, batch), data


def test_a_loaded_detector_finds_what_evaluation_finds(detector):
    (wanted,), data = evaluated(detector)
    model = kd2.load(detector)
    (found,) = model.predict(data.records[0]["file_name"])
    assert len(found["boxes"]) == 4 and model.classes == ["box", "bar"]
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(found[name], wanted[name])
    np.testing.assert_array_equal(found["masks"], wanted["masks"][:, 0])


def test_a_loaded_segmenter_finds_what_evaluation_finds(segmenter):
    wanted, data = evaluated(segmenter)
    model = kd2.load(segmenter)
    (found,) = model.predict(data.records[0]["file_name"])
    assert model.classes == CLASSES["segmenter"] and found["scores"].shape == (5, *found["labels"].shape)
    assert (found["labels"] == wanted[0].numpy()).mean() > 0.99  # resizing may round single pixels otherwise


def test_a_loaded_classifier_finds_what_evaluation_finds(classifier):
    logits, data = evaluated(classifier)
    model = kd2.load(classifier)
    (found,) = model.predict(data.pixels(0))
    assert model.classes == ["bar", "box", "dot"]
    np.testing.assert_allclose(found["scores"], logits.student.softmax(1)[0], atol=1e-3)
    assert found["labels"].tolist() == [found["scores"].argmax()]


def test_pictures_come_as_files_arrays_or_tensors(classifier):
    model, pixels = kd2.load(classifier), np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    array, tensor = model.predict([pixels, torch.from_numpy(pixels).permute(2, 0, 1)])
    np.testing.assert_array_equal(array["scores"], tensor["scores"])


def test_a_gray_array_is_refused(classifier):
    with pytest.raises(ConfigError, match=r"uint8 of shape \(4, 5\), expected uint8 \(H, W, 3\)"):
        kd2.load(classifier).predict(np.zeros((4, 5), np.uint8))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no folder of a run: it has no config.yaml"):
        kd2.load(str(tmp_path))


def test_a_run_without_a_checkpoint_is_refused(classifier, tmp_path):
    shutil.copy(os.path.join(classifier, "config.yaml"), tmp_path)
    with pytest.raises(ConfigError, match="a run without a checkpoint"):
        kd2.load(str(tmp_path))


def test_a_file_of_another_ending_is_refused(classifier):
    with pytest.raises(ConfigError, match=r"expected the folder of a run, or an exported file: \.onnx, \.xml, \.pt"):
        kd2.load(os.path.join(classifier, "model_final.pth"))


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no '.*absent.onnx', expected the folder of a run or a file"):
        kd2.load(str(tmp_path / "absent.onnx"))
