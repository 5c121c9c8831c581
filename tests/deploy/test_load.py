import os
import shutil

import numpy as np
import pytest
import torch

import kd2
from kd2 import engine
from kd2.distill import ConfigError
from kd2.engine.flow import trained_student

from ..helpers.contents import different

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


def test_weights_beside_an_exported_file_are_refused(tmp_path):
    (tmp_path / "a.onnx").touch()
    with pytest.raises(ConfigError, match="a.onnx is an exported file, which holds its weights: b.pth has no place"):
        kd2.load(str(tmp_path / "a.onnx"), "b.pth")


def test_a_finished_run_that_goes_on_gives_its_last_checkpoint(classifier, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    content = torch.load(run / "model_final.pth", weights_only=True)
    content["model"] = {name: x + 1 if x.is_floating_point() else x for name, x in content["model"].items()}
    torch.save(content, run / "model_0000050.pth")
    (run / "last_checkpoint").write_text("model_0000050.pth")
    assert different(kd2.load(str(run)).student.state_dict(), content["model"]) == []


def test_a_config_that_was_changed_since_the_training_is_told(classifier, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    config = (run / "config.yaml").read_text()
    content = torch.load(run / "model_final.pth", weights_only=True)
    content["kd2"]["config"] = config
    torch.save(content, run / "model_final.pth")
    kd2.load(str(run))
    assert not caplog.records
    (run / "config.yaml").write_text(
        config.replace(" SIZE: 32", " SIZE: 24").replace("TEST_SCALE: 1.1", "TEST_SCALE: 1.2")
    )
    kd2.load(str(run))
    (record,) = caplog.records  # the scale of a test may be another
    assert "INPUT.SIZE is 24, but" in record.getMessage() and "was trained with 32" in record.getMessage()


@pytest.mark.parametrize(
    ("picture", "text"), [(5, "an image is 5, expected a path, file"), (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)")]
)
def test_what_is_no_picture_is_refused(classifier, picture, text):
    with pytest.raises(ConfigError, match=text):
        kd2.load(classifier).predict(picture)
