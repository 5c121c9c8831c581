"""tools/train_net.py's work: training, evaluation, and stops that name their reason."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import os

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

from kd2.engine.detectron2 import add_d2_config, distiller, trial
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.solver import build_optimizer
from kd2.distill import ConfigError, NonFiniteLoss

from ...helpers.d2_tiny import load_config, student_of, train, weights, write_config


@pytest.fixture(scope="module")
def trained(retinanets, tmp_path_factory):
    """Output folder and results of a short distillation with evaluation."""
    folder = str(tmp_path_factory.mktemp("trained"))
    results = train(retinanets, "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "['tiny']")
    return folder, results


def test_results_are_flat_numbers(trained):
    assert {"bbox/AP", "bbox/AP50"} <= trained[1].keys()
    assert all(isinstance(value, float) for value in trained[1].values())


@pytest.mark.parametrize("options", [["MODEL.WEIGHTS"], ["resume"]], ids=["weights", "resume"])
def test_evaluation_builds_neither_teacher_nor_losses(retinanets, trained, monkeypatch, options):
    def never(*_args, **_kwargs):
        raise AssertionError("evaluation asked for the teacher or the losses")

    for name in ("build_parts", "build_teacher", "build_losses"):
        monkeypatch.setattr(distiller, name, never)
    folder, results = trained
    common = ["OUTPUT_DIR", folder, "DATASETS.TEST", "['tiny']"]
    if options == ["resume"]:
        again = train(retinanets, *common, eval_only=True, resume=True)
    else:
        again = train(retinanets, *common, "MODEL.WEIGHTS", os.path.join(folder, "model_final.pth"), eval_only=True)
    assert again == pytest.approx(results, nan_ok=True)


def test_the_trained_student_serves_detectron2s_predictor(retinanets, trained):
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(retinanets)
    cfg.MODEL.META_ARCHITECTURE = cfg.KD.STUDENT.META_ARCHITECTURE
    cfg.MODEL.WEIGHTS = os.path.join(trained[0], "model_final.pth")
    predictor = DefaultPredictor(cfg)
    expected = weights(trained[0])
    for name, value in predictor.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert predictor(np.zeros((64, 80, 3), np.uint8))["instances"].image_size == (64, 80)


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
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED is True"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "KD.LOSSES is given, but MODEL.META_ARCHITECTURE is 'RetinaNet'"),
        (["SOLVER.OPTIMIZER", "Adam"], "SOLVER.OPTIMIZER is 'Adam'; did you mean AdamW"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full"],
         "CLIP_TYPE is 'full'; did you mean full_model"),
        (["KD.LOSSES.imitation.PSY", "1"], "KD.LOSSES.imitation.PSY: no such key; did you mean PSI"),
        (["DATASETS.TEST", "['tine']"], "'tine' is not in DATASETS.CUSTOM"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without CUDA")
def test_a_bad_key_is_named_before_training(retinanets, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        train(retinanets, "OUTPUT_DIR", str(tmp_path), *options)


def test_a_plain_meta_architecture_trains_without_losses(data, tmp_path):
    plain = {"MODEL": {"META_ARCHITECTURE": "RetinaNet"}, "KD": {"STUDENT": {"META_ARCHITECTURE": "FCOS"}}}
    train(write_config(tmp_path, data, plain), "SOLVER.MAX_ITER", "1")
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert content["adapters"] == {} and "head.cls_score.weight" in content["model"]


@pytest.mark.parametrize("clip", ["value", "norm", "full_model"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_losses_have_groups_of_their_own(data, tmp_path, name, clip):
    options = [
        "SOLVER.OPTIMIZER", name, "SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5", "SOLVER.WEIGHT_DECAY_BIAS", "0.0",
    ]
    cfg = load_config(write_config(tmp_path, data), options)
    losses = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(cfg, student_of(cfg), losses)
    groups = [g for g in optimizer.param_groups if any(p is losses.weight or p is losses.bias for p in g["params"])]
    assert [g["weight_decay"] for g in groups] == [cfg.SOLVER.WEIGHT_DECAY, 0.0]
    assert all(len(g["params"]) == 1 for g in groups)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.full_like(p, 3.0 if p is losses.weight or p is losses.bias else 0.0)
    optimizer.step()
    total = torch.cat([p.grad.flatten() for p in losses.parameters()])
    expected = {"value": 0.5 * 6**0.5, "norm": 0.5 * 2**0.5, "full_model": 0.5}[clip]
    assert total.norm().item() == pytest.approx(expected, rel=1e-4)


def test_a_trial_holds_both_models_and_a_batch(retinanets):
    with trial.trial(retinanets, []) as found:
        assert set(found.distiller.raw_losses(found.batch)) == {"loss_imitation"}
        assert found.facts["matched weights"] == ("from scratch", "100.0 %")
        assert found.facts["classes"] == ("2 things", "2 things")


def test_a_trial_sees_the_first_batch_of_training(retinanets):
    cfg = load_config(retinanets)
    with trial.trial(retinanets, []) as found:
        for ours, first in zip(found.batch, next(iter(train_loader(cfg)))):
            assert torch.equal(ours["image"], first["image"])
