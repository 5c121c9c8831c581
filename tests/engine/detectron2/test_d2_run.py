"""tools/train_net.py's work: training, evaluation, and stops that name their reason."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.utils import comm

from kd2.config import read
from kd2.distill import ConfigError, DataError, Distiller, LossConfig, NonFiniteLoss, Schedule
from kd2.engine import dry_run
from kd2.engine.detectron2 import add_d2_config
from kd2.engine.detectron2 import experiment as experiment_module
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.run import launched
from kd2.engine.detectron2.solver import clipped_optimizer

from ...helpers.d2_tiny import different, load_config, student_of, train, weights, write_config


@pytest.fixture(scope="module")
def trained(retinanets, tmp_path_factory):
    """Output folder and results of a short distillation with evaluation."""
    folder = str(tmp_path_factory.mktemp("trained"))
    results = train(retinanets, "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "['tiny']")
    return folder, results


def test_results_are_flat_numbers(trained):
    assert {"bbox/AP", "bbox/AP50"}.issubset(trained[1])
    assert all(isinstance(value, float) for value in trained[1].values())


@pytest.mark.parametrize("options", [["MODEL.WEIGHTS"], ["resume"]], ids=["weights", "resume"])
def test_evaluation_builds_neither_teacher_nor_losses(retinanets, trained, monkeypatch, options):
    def never(*_args, **_kwargs):
        raise AssertionError("evaluation asked for the teacher or the losses")

    for name in ("build_distiller", "teacher_config", "step_of"):
        monkeypatch.setattr(experiment_module, name, never)
    folder, results = trained
    common = ["OUTPUT_DIR", folder, "DATASETS.TEST", "['tiny']"]
    if options == ["resume"]:
        again = train(retinanets, *common, eval_only=True, resume=True)
    else:
        again = train(retinanets, *common, "MODEL.WEIGHTS", os.path.join(folder, "model_final.pth"), eval_only=True)
    assert again == pytest.approx(results, nan_ok=True)


@pytest.mark.parametrize("name", ["config.yaml", "student.yaml"])
def test_the_configs_that_a_run_leaves_serve_detectron2s_predictor(trained, name):
    folder, _ = trained
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(os.path.join(folder, name))
    assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    final = os.path.join(folder, "model_final.pth")
    if name == "student.yaml":
        assert final == cfg.MODEL.WEIGHTS
    cfg.MODEL.WEIGHTS = final
    predictor = DefaultPredictor(cfg)
    assert different(predictor.model.state_dict(), torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]) == []
    assert predictor(np.zeros((64, 80, 3), np.uint8))["instances"].image_size == (64, 80)


def test_the_student_of_detectron2s_own_parts_needs_nothing_of_kd2(data, tmp_path):
    resnet = {
        "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone"},
        "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "OUT_FEATURES": ["res3", "res4", "res5"], "NORM": "BN"},
    }
    train(write_config(tmp_path, data, {"MODEL": resnet}), "SOLVER.MAX_ITER", "1")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "out" / "student.yaml"))
    predictor = DefaultPredictor(cfg)
    assert different(predictor.model.state_dict(), weights(tmp_path / "out")) == []


def test_the_config_that_a_run_leaves_trains_again(trained, tmp_path):
    train(os.path.join(trained[0], "config.yaml"), "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "[]")
    assert different(weights(tmp_path), weights(trained[0])) == []


def test_evaluation_leaves_the_configs_of_the_training_alone(retinanets, trained):
    paths = [Path(trained[0], name) for name in ("config.yaml", "student.yaml")]
    before = [path.read_text() for path in paths]
    options = ["OUTPUT_DIR", trained[0], "DATASETS.TEST", "['tiny']", "INPUT.MIN_SIZE_TEST", "72"]
    train(retinanets, *options, eval_only=True, resume=True)
    assert [path.read_text() for path in paths] == before


def test_the_config_file_is_read_once(retinanets, tmp_path, monkeypatch):
    """By whoever calls ``run``; only the teacher's own file is read inside."""
    seen = []
    monkeypatch.setattr(
        sys.modules["kd2.config.load"], "read", lambda path, options=(): seen.append(path) or read(path, options)
    )
    train(retinanets, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1")
    assert seen == [retinanets.replace("student.yaml", "teacher.yaml")]


def test_evaluation_needs_weights_that_fit(retinanets, tmp_path):
    options = ["OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "['tiny']"]
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS is empty, --eval-only needs"):
        train(retinanets, *options, eval_only=True)
    teacher = retinanets.replace("student.yaml", "teacher.pth")
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS: .*teacher.pth does not fit the model"):
        train(retinanets, *options, "MODEL.WEIGHTS", teacher, eval_only=True)


def test_a_nan_loss_stops_with_its_name_and_keeps_the_last_checkpoint(retinanets, tmp_path, monkeypatch):
    from kd2.losses.imitation import Imitation

    forward, calls = Imitation.forward, []

    def breaks(self, *args):
        calls.append(1)
        return forward(self, *args) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(Imitation, "forward", breaks)
    with pytest.raises(NonFiniteLoss, match="loss_imitation became NaN or infinite at iteration 3"):
        train(retinanets, "OUTPUT_DIR", str(tmp_path))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert all(torch.isfinite(x).all() for x in weights(tmp_path, "model_0000001.pth").values())


def test_an_output_folder_that_is_none_is_named(retinanets, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="OUTPUT_DIR .* is not writable"):
        train(retinanets, "OUTPUT_DIR", str(tmp_path / "file" / "out"))


def test_other_classes_than_the_data_are_named(retinanets, tmp_path):
    options = ["MODEL.RETINANET.NUM_CLASSES", "3", "KD.LOSSES.imitation.WEIGHT", "0", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 3, data set 'tiny' has 2 classes \(box, bar\)"):
        train(retinanets, *options)


@pytest.mark.parametrize(
    "options, text",
    [
        (["MODEL.DEVICE", "cuda"], "MODEL.DEVICE is 'cuda', but this machine has no CUDA device"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.PRECISION is 'fp16', which needs a CUDA device"),
        (["SOLVER.OPTIMIZER", "SDG"], "SOLVER.OPTIMIZER is 'SDG'; did you mean SGD"),
        (
            ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full"],
            "CLIP_TYPE is 'full'; did you mean full_model",
        ),
        (["KD.LOSSES.imitation.PSY", "1"], "KD.LOSSES.imitation.PSY: no such key; did you mean PSI"),
        (["DATASETS.TEST", "['tine']"], "'tine' is not in DATASETS.CUSTOM"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without CUDA")
def test_a_bad_key_is_named_before_training(retinanets, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        train(retinanets, "OUTPUT_DIR", str(tmp_path), *options)


def test_nothing_is_left_of_a_run_whose_test_set_does_not_fit(retinanets, data, tmp_path):
    """The classes are compared when the student is there, before anything is written."""
    options = ["MODEL.RETINANET.NUM_CLASSES", "3", "KD.LOSSES", "{}", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(ConfigError, match="NUM_CLASSES is 3"):
        train(retinanets, *options, "DATASETS.TEST", "['tiny']")
    assert os.listdir(tmp_path) == ["run.lock"]


def test_a_test_set_that_is_not_there_is_named_before_training(retinanets, tmp_path):
    with pytest.raises(DataError, match="data set 'coco_2017_val_100' cannot be used: .*the data root is"):
        train(retinanets, "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "['coco_2017_val_100']")


def test_without_losses_there_are_no_adapters(data, tmp_path):
    train(write_config(tmp_path, data), "SOLVER.MAX_ITER", "1")
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert content["adapters"] == {} and "head.cls_score.weight" in content["model"]


@pytest.mark.parametrize("clip", ["value", "norm", "full_model"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_losses_have_groups_of_their_own(data, tmp_path, name, clip):
    options = [
        "SOLVER.OPTIMIZER",
        name,
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        "True",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        clip,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        "0.5",
        "SOLVER.WEIGHT_DECAY_BIAS",
        "0.0",
    ]
    cfg = load_config(write_config(tmp_path, data), options)
    losses = torch.nn.Linear(2, 2)
    student = student_of(cfg)
    config = LossConfig("fpn", Schedule(1.0), adapter_lr=5.0)
    optimizer = clipped_optimizer(cfg, Distiller(student, losses={"imitation": losses}, configs={"imitation": config}))
    first = next(p for p in student.parameters() if p.requires_grad)
    groups = [g for g in optimizer.param_groups if any(p is losses.weight or p is losses.bias for p in g["params"])]
    assert [g["weight_decay"] for g in groups] == [cfg.SOLVER.WEIGHT_DECAY, 0.0]
    assert all(len(g["params"]) == 1 for g in groups)
    assert {g["lr"] for g in groups} == {5 * cfg.SOLVER.BASE_LR}
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 3.0 if p is losses.weight or p is losses.bias else 0.0)
    first.grad.flatten()[:2] = 3.0
    optimizer.step()
    adapters = torch.cat([p.grad.flatten() for p in losses.parameters()])
    assert adapters.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert first.grad.norm().item() == pytest.approx(0.5 * 2**0.5 if clip == "value" else 0.5, rel=1e-4)


def test_an_optimizer_of_timms_has_the_weight_decay_of_the_solver(data, tmp_path):
    options = ["SOLVER.OPTIMIZER", "lamb", "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.WEIGHT_DECAY_NORM", "0.25"]
    cfg = load_config(write_config(tmp_path, data), options)
    optimizer = clipped_optimizer(cfg, Distiller(student_of(cfg)))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.5, 0.25}


def test_a_dry_run_holds_both_models_and_a_batch(retinanets, tmp_path):
    with dry_run(retinanets, ["OUTPUT_DIR", str(tmp_path)]) as found:
        _, losses = found.distiller.evaluate(found.batch, {"imitation": 1.0})
        assert set(losses) == {"loss_imitation"}
        assert found.facts["matched weights"] == ("from scratch", "100.0 %")
        assert found.facts["classes"] == ("2 things", "2 things")


def test_a_dry_run_has_the_student_and_the_first_batch_of_training(retinanets, tmp_path):
    options = ["OUTPUT_DIR", str(tmp_path), "SOLVER.BASE_LR", "0.0", "SOLVER.MAX_ITER", "1"]
    train(retinanets, *options)
    trained = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    with dry_run(retinanets, options) as found:
        student = found.distiller.student
        assert all(torch.equal(p, trained[name]) for name, p in student.named_parameters())
        for ours, first in zip(found.batch, next(iter(train_loader(load_config(retinanets)))), strict=True):
            assert torch.equal(ours["image"], first["image"])


@pytest.mark.parametrize(
    "options, text",
    [
        (["DATASETS.TEST", "['tine']"], "'tine' is not in DATASETS.CUSTOM"),
        (["MODEL.RETINANET.NUM_CLASSES", "3"], "NUM_CLASSES is 3, data set 'tiny'"),
        (["KD.LOSSES", "{}"], "KD.LOSSES has no loss with a weight or share other than 0"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS: no file nowhere.pth"),
        (["DATASETS.TEST", "['tiny']", "TEST.BEST", "bbox/APP"], "TEST.BEST is 'bbox/APP', which no evaluation gives"),
        (["SOLVER.OPTIMIZER", "sgdd"], "SOLVER.OPTIMIZER is 'sgdd'"),
    ],
)
def test_a_dry_run_fails_like_training(retinanets, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text), dry_run(retinanets, ["OUTPUT_DIR", str(tmp_path), *options]):
        pass


def test_a_dry_run_reads_the_first_test_image(retinanets, data, tmp_path):
    own = shutil.copytree(data, tmp_path / "data")
    image = next((own / "images").glob("0.*"))
    image.write_bytes(image.read_bytes()[:200])
    entry = {"JSON": str(own / "coco.json"), "IMAGES": str(own / "images")}
    options = ["OUTPUT_DIR", str(tmp_path), "DATASETS.CUSTOM.broken", str(entry), "DATASETS.TEST", "['broken']"]
    with pytest.raises(DataError, match=image.name), dry_run(retinanets, options):
        pass


def test_a_dry_run_scores_a_test_image_and_writes_nothing(retinanets, tmp_path):
    with dry_run(retinanets, ["OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", "['tiny']"]) as found:
        assert found.distiller.student.training
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


OTHER_ERRORS = (DataError, NonFiniteLoss, OSError)


def fails_on_the_second(kind: type[Exception]) -> None:
    """The work of one of two processes."""
    if comm.get_rank() == 1:
        raise kind("KEY is 1, expected 2")
    comm.synchronize()


@pytest.mark.skipif(torch.cuda.is_available(), reason="starts two processes without CUDA")
@pytest.mark.parametrize("kind", [ConfigError, *(pytest.param(x, marks=pytest.mark.slow) for x in OTHER_ERRORS)])
def test_a_users_error_in_a_started_process_arrives_as_itself(kind):
    args = argparse.Namespace(num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(kind) as caught:
        launched(fails_on_the_second, 2, args, (kind,))
    assert type(caught.value) is kind and str(caught.value) == "KEY is 1, expected 2"
