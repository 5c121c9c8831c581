"""Checkpoints: the student under its plain names, adapters apart; all or nothing; loading says what is wrong."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import os
import pickle

import torch
from ...helpers.d2_tiny import different, train, weights, write_config
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from kd2.engine.detectron2.checkpoint import CheckedCheckpointer, StudentCheckpointer
from kd2.engine.detectron2.config import load_config
from kd2.engine.detectron2.models import build_student
from kd2.distill import ConfigError


@pytest.fixture(scope="module")
def finished(retinanets, tmp_path_factory):
    """Config and output folder of a finished distillation."""
    folder = str(tmp_path_factory.mktemp("finished"))
    train(retinanets, "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", "2")
    return load_config(retinanets), folder


def checkpointer(cfg, partial=False) -> CheckedCheckpointer:
    return CheckedCheckpointer(build_student(cfg), "MODEL.WEIGHTS", partial=partial)


def test_the_final_file_holds_student_adapters_and_trainer_and_no_teacher(finished):
    cfg, folder = finished
    content = torch.load(os.path.join(folder, "model_final.pth"), weights_only=True)
    assert set(content) == {"model", "adapters", "trainer", "iteration"}
    assert list(content["model"]) == list(build_student(cfg).state_dict())
    assert {name.split(".")[0] for name in content["adapters"]} == {"imitation"}


def test_plain_detectron2_loads_it_with_equal_outputs(finished):
    cfg, folder = finished
    path = os.path.join(folder, "model_final.pth")
    cfg = cfg.clone()
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    ours = build_model(cfg)
    StudentCheckpointer(ours.student, ours.losses, "", False).load(path)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    plain = build_model(cfg)
    DetectionCheckpointer(plain).load(path)
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        a, b = [model.eval()([{"image": image}])[0]["instances"] for model in (ours, plain)]
    assert len(a) > 0 and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)


def test_a_distilled_student_can_be_a_teacher(finished, retinanets, data, tmp_path):
    cfg, folder = finished
    teacher = {"CONFIG_FILE": retinanets, "WEIGHTS": os.path.join(folder, "model_final.pth")}
    path = write_config(tmp_path, data, {"KD": {"TEACHER": teacher, "LOSSES": {"imitation": {"WEIGHT": 0.1}}}})
    model = build_model(load_config(path)).teacher.model
    assert type(model).__name__ == "RetinaNet"
    assert different(model.state_dict(), torch.load(teacher["WEIGHTS"], weights_only=True)["model"]) == []


def test_a_failing_disk_leaves_the_old_file_and_the_tag(finished, tmp_path, monkeypatch):
    cfg, _ = finished
    model = build_model(cfg)
    saver = StudentCheckpointer(model.student, model.losses, str(tmp_path), False)
    saver.save("model_0", iteration=0)
    before = weights(tmp_path, "model_0.pth")

    def full_disk(content, file):
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with torch.no_grad():
        next(model.student.parameters()).zero_()
    for name in ("model_0", "model_1"):
        with pytest.raises(OSError, match="No space left"):
            saver.save(name, iteration=1)
    monkeypatch.undo()
    assert different(weights(tmp_path, "model_0.pth"), before) == []
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"


def test_a_missing_file_is_named_with_its_neighbors(finished):
    cfg, folder = finished
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS: no file .*model_fnal.pth; did you mean model_final.pth"):
        checkpointer(cfg).load(os.path.join(folder, "model_fnal.pth"))


def test_a_truncated_file_is_named(finished, tmp_path):
    cfg, folder = finished
    whole = open(os.path.join(folder, "model_final.pth"), "rb").read()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS: .*half.pth is truncated"):
        checkpointer(cfg).load(str(tmp_path / "half.pth"))


def test_a_pickle_needs_the_opt_in_and_then_goes_through_detectron2s_name_conversion(finished, tmp_path):
    """Caffe2's names: a bare array file without Detectron2's author entry is matched by suffix."""
    cfg, _ = finished
    model = build_student(cfg)
    stem = "backbone.bottom_up.net.conv1.0.weight"
    array = torch.ones_like(model.state_dict()[stem]).numpy()
    path = str(tmp_path / "caffe2.pkl")
    content = {"model": {"net.conv1.0.weight": array}, "__author__": "someone", "matching_heuristics": True}
    with open(path, "wb") as file:
        pickle.dump(content, file)
    with pytest.raises(ConfigError, match="caffe2.pkl is a pickle, which can run code.*KD.ALLOW_PICKLE"):
        checkpointer(cfg).load(path)
    CheckedCheckpointer(model, "MODEL.WEIGHTS", allow_pickle=True, partial=True).load(path)
    assert model.state_dict()[stem].eq(1).all()


def test_a_file_that_would_run_code_is_refused(finished, tmp_path):
    cfg, _ = finished
    torch.save({"model": {"weight": torch.zeros(1)}, "code": print}, tmp_path / "code.pth")
    with pytest.raises(ConfigError, match="code.pth is no checkpoint of plain tensors"):
        checkpointer(cfg).load(str(tmp_path / "code.pth"))


@pytest.mark.parametrize("content", [{"model": {"other": torch.zeros(3)}}, {"other": torch.zeros(3)}])
def test_a_file_of_which_nothing_fits_is_refused_even_for_a_backbone(finished, tmp_path, content):
    cfg, _ = finished
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"MODEL.WEIGHTS: .*other.pth does not fit .*: 0.0 % .* unexpected \(other\)"):
        checkpointer(cfg, partial=True).load(str(tmp_path / "other.pth"))


def test_a_backbone_may_start_the_student(finished, tmp_path):
    cfg, _ = finished
    state = {k: torch.zeros_like(v) for k, v in build_student(cfg).state_dict().items() if "bottom_up" in k}
    torch.save(state, tmp_path / "backbone.pth")
    loader = checkpointer(cfg, partial=True)
    loader.load(str(tmp_path / "backbone.pth"))
    assert 0 < loader.match.share < 1
    assert all(not v.any() for k, v in loader.model.state_dict().items() if "bottom_up" in k)


def test_weights_without_numbers_are_refused(finished, tmp_path):
    cfg, _ = finished
    torch.save({"model": {"head": "text"}}, tmp_path / "text.pth")
    with pytest.raises(ConfigError, match="text.pth holds no model weights"):
        checkpointer(cfg).load(str(tmp_path / "text.pth"))
