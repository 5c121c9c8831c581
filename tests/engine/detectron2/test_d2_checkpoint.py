"""Checkpoints: one form, of use everywhere; all or nothing; loading says what is wrong."""

import urllib.request

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import os
import pickle
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor

from kd2.distill import ConfigError, NonFiniteLoss
from kd2.engine.detectron2.checkpointer import CheckedCheckpointer
from kd2.engine.detectron2.hooks import RunCheckpointer

from ...helpers.d2_tiny import different, distiller_of, load_config, student_of, train, weights, write_config


@pytest.fixture(scope="module")
def finished(retinanets, tmp_path_factory):
    """Config and output folder of a finished distillation."""
    folder = str(tmp_path_factory.mktemp("finished"))
    train(retinanets, "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "[2]")
    return load_config(retinanets), folder


def checkpointer(cfg, partial=False) -> CheckedCheckpointer:
    return CheckedCheckpointer(student_of(cfg), "MODEL.WEIGHTS", partial=partial)


@pytest.fixture(params=["model_0000001.pth", "model_final.pth"], ids=["intermediate", "final"])
def saved(request, finished) -> str:
    """Either of the run's files."""
    return os.path.join(finished[1], request.param)


def test_every_file_holds_the_same_entries_and_no_teacher(finished, saved):
    content = torch.load(saved, weights_only=True)
    assert set(content) == {"model", "adapters", "optimizer", "scheduler", "iteration", "kd2", "trainer"}
    assert set(content["kd2"]) == {"version", "seed", "rng", "classes", "teacher", "config", "shares"}
    assert content["kd2"]["classes"] == {"things": ["box", "bar"]} and content["kd2"]["seed"] == finished[0].SEED
    assert list(content["model"]) == list(student_of(finished[0]).state_dict())
    assert {name.split(".")[0] for name in content["adapters"]} == {"imitation"}
    assert "optimizer" not in content["trainer"]["_trainer"] and "LRScheduler" not in content["trainer"]["hooks"]


def test_the_iteration_is_the_last_one_that_was_done(saved):
    expected = {"model_0000001.pth": 1, "model_final.pth": 2}[os.path.basename(saved)]
    assert torch.load(saved, weights_only=True)["iteration"] == expected


def test_the_saved_config_is_read_back(finished, saved, tmp_path):
    (tmp_path / "saved.yaml").write_text(torch.load(saved, weights_only=True)["kd2"]["config"])
    assert load_config(str(tmp_path / "saved.yaml")).KD == finished[0].KD


def test_plain_detectron2_loads_it_whole(finished, saved):
    plain = student_of(finished[0])
    DetectionCheckpointer(plain).load(saved)
    assert different(plain.state_dict(), torch.load(saved, weights_only=True)["model"]) == []


def test_detectron2s_predictor_runs_it(finished, saved):
    cfg = finished[0].clone()
    cfg.MODEL.WEIGHTS = saved
    predictor = DefaultPredictor(cfg)
    assert different(predictor.model.state_dict(), torch.load(saved, weights_only=True)["model"]) == []
    assert predictor(np.zeros((64, 80, 3), np.uint8))["instances"].image_size == (64, 80)


def test_it_can_be_a_teacher(retinanets, saved, data, tmp_path):
    teacher = {"CONFIG_FILE": retinanets, "WEIGHTS": saved}
    path = write_config(tmp_path, data, {"KD": {"TEACHER": teacher, "LOSSES": {"imitation": {"WEIGHT": 0.1}}}})
    model = distiller_of(load_config(path)).teacher.model
    assert type(model).__name__ == "RetinaNet"
    state, expected = model.state_dict(), torch.load(saved, weights_only=True)["model"]
    assert different(state, {name: expected[name] for name in state}) == []  # no tap needs its head


def test_it_can_start_another_student(retinanets, saved, tmp_path):
    """With a learning rate of 0 the student stays what it was."""
    options = ["MODEL.WEIGHTS", saved, "SOLVER.BASE_LR", "0.0", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path)]
    train(retinanets, *options)
    parameters = dict(student_of(load_config(retinanets)).named_parameters())
    started, expected = (torch.load(x, weights_only=True)["model"] for x in (tmp_path / "model_final.pth", saved))
    assert all(torch.equal(started[name], expected[name]) for name in parameters)


@pytest.mark.parametrize("resume", [False, True], ids=["weights", "resume"])
def test_it_is_evaluated(retinanets, finished, saved, resume):
    folder = finished[1]
    options = ["OUTPUT_DIR", folder, "DATASETS.TEST", "['tiny']"]
    with open(os.path.join(folder, "last_checkpoint"), "w") as file:
        file.write(os.path.basename(saved))
    named = [] if resume else ["MODEL.WEIGHTS", saved]
    assert "bbox/AP" in train(retinanets, *options, *named, eval_only=True, resume=resume)


def test_a_failing_disk_leaves_the_old_file_and_the_tag(finished, tmp_path, monkeypatch):
    student = student_of(finished[0])
    saver = RunCheckpointer(student, str(tmp_path), lambda: {"adapters": {}, "iteration": 0})
    saver.save("model_0")
    before = weights(tmp_path, "model_0.pth")

    def full_disk(content, file):
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with torch.no_grad():
        next(student.parameters()).zero_()
    for name in ("model_0", "model_1"):
        with pytest.raises(OSError, match="No space left"):
            saver.save(name)
    monkeypatch.undo()
    assert different(weights(tmp_path, "model_0.pth"), before) == []
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"


def test_weights_that_are_not_finite_are_not_saved(finished, tmp_path):
    student = student_of(finished[0])
    with torch.no_grad():
        next(student.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="1 weights became NaN or infinite by iteration 8"):
        RunCheckpointer(student, str(tmp_path), lambda: {"iteration": 7}).save("model_0")
    assert os.listdir(tmp_path) == []


def test_a_missing_file_is_named_with_its_neighbors(finished):
    cfg, folder = finished
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS: no file .*model_fnal.pth; did you mean model_final.pth"):
        checkpointer(cfg).load(os.path.join(folder, "model_fnal.pth"))


def test_a_truncated_file_is_named(finished, tmp_path):
    cfg, folder = finished
    whole = Path(folder, "model_final.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS: .*half.pth is truncated"):
        checkpointer(cfg).load(str(tmp_path / "half.pth"))


def pickled(path: Path, content: dict) -> str:
    path.write_bytes(pickle.dumps(content))
    return str(path)


STEM = "backbone.bottom_up.net.conv1.0.weight"


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("zoo.pkl", lambda x: {"model": x, "__author__": "someone", "matching_heuristics": True}),
        ("caffe2.pkl", lambda x: x | {"net.conv1.0.weight_momentum": x["net.conv1.0.weight"]}),
        ("detectron1.pkl", lambda x: {"blobs": x, "cfg": "text"}),
        ("pycls.pyth", lambda x: {"model_state": x | {"net.bn1.num_batches_tracked": np.array(5)}, "epoch": 3}),
    ],
)
def test_the_files_of_other_libraries_go_through_detectron2s_name_conversion(finished, tmp_path, name, wrap):
    """Names are matched by suffix; no permission is needed."""
    cfg, _ = finished
    model = student_of(cfg)
    array = torch.ones_like(model.state_dict()[STEM]).numpy()
    path = pickled(tmp_path / name, wrap({"net.conv1.0.weight": array}))
    loader = CheckedCheckpointer(model, "MODEL.WEIGHTS", partial=True)
    loader.load(path)
    assert model.state_dict()[STEM].eq(1).all()
    assert loader.match.unexpected == []


def test_a_bare_state_dict_is_matched_by_suffix_where_its_address_asks_for_it(finished, tmp_path):
    cfg, _ = finished
    model = student_of(cfg)
    torch.save({"net.conv1.0.weight": torch.ones_like(model.state_dict()[STEM])}, tmp_path / "a.pth")
    CheckedCheckpointer(model, "MODEL.WEIGHTS", partial=True).load(f"{tmp_path}/a.pth?matching_heuristics=True")
    assert model.state_dict()[STEM].eq(1).all()


def test_whole_numbers_do_not_become_weights(finished, tmp_path):
    cfg, folder = finished
    state = {k: v.to(torch.int64) if k == STEM else v for k, v in student_of(cfg).state_dict().items()}
    torch.save({"model": state}, tmp_path / "whole.pth")
    with pytest.raises(ConfigError, match=rf"1 other type \({STEM} torch.int64 instead of torch.float32\)"):
        checkpointer(cfg).load(str(tmp_path / "whole.pth"))


@pytest.mark.parametrize("name", ["detectron2://no/such.pkl", "catalog://ImageNetPretrained/no/such"])
def test_names_of_detectron2s_schemes_become_addresses(finished, monkeypatch, name):
    def fail(request, **_):
        raise OSError(f"no route to {request.full_url}")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    text = "no route to https://dl.fbaipublicfiles.com/detectron2/no/such.pkl|catalog has no 'catalog://ImageNetPre"
    with pytest.raises(ConfigError, match=text):
        checkpointer(finished[0]).load(name)


@pytest.mark.parametrize("name", ["code.pth", "code.pkl", "code.pyth"])
def test_a_file_that_would_run_code_is_refused(finished, tmp_path, name):
    cfg, _ = finished
    torch.save({"model": {"weight": torch.zeros(1)}, "code": print}, tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name} is no checkpoint of plain tensors: loading it would run code"):
        checkpointer(cfg).load(str(tmp_path / name))


@pytest.mark.parametrize("content", [{"model": {"other": torch.zeros(3)}}, {"other": torch.zeros(3)}])
def test_a_file_of_which_nothing_fits_is_refused_even_for_a_backbone(finished, tmp_path, content):
    cfg, _ = finished
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"MODEL.WEIGHTS: .*other.pth does not fit .*: 0.0 % .* unexpected \(other\)"):
        checkpointer(cfg, partial=True).load(str(tmp_path / "other.pth"))


def test_a_backbone_may_start_the_student(finished, tmp_path):
    cfg, _ = finished
    state = {k: torch.zeros_like(v) for k, v in student_of(cfg).state_dict().items() if "bottom_up" in k}
    torch.save(state, tmp_path / "backbone.pth")
    loader = checkpointer(cfg, partial=True)
    loader.load(str(tmp_path / "backbone.pth"))
    assert 0 < loader.match.matched < 1
    assert all(not v.any() for k, v in loader.model.state_dict().items() if "bottom_up" in k)


def test_weights_without_numbers_are_refused(finished, tmp_path):
    cfg, _ = finished
    torch.save({"model": {"head": "text"}}, tmp_path / "text.pth")
    with pytest.raises(ConfigError, match="text.pth: model: head is a str 'text'"):
        checkpointer(cfg).load(str(tmp_path / "text.pth"))
