"""A run that is resumed at a checkpoint equals the run that was never interrupted, bit for bit."""

import shutil

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from ...helpers import tiny
import torch

from kd2.distill import ConfigError

# Images of more than 64 pixels: torch's bfloat16 weight gradient of a strided convolution over maps one cell wide reads
# uninitialized memory on some CPUs.
ADAMW = {
    "INPUT": {"MIN_SIZE_TRAIN": [96, 104], "MAX_SIZE_TRAIN": 128},
    "SOLVER": {
        "OPTIMIZER": "AdamW", "LR_SCHEDULER_NAME": "WarmupCosineLR", "AMP": {"ENABLED": True},
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_VALUE": 0.5},
    },
}


def interrupted(tmp_path, data, changes: dict, *options: str) -> list[str]:
    """Names of the weights that differ between a whole run of 6 iterations and one resumed at iteration 3."""
    whole = tiny.write_config(tmp_path, data, changes | {"OUTPUT_DIR": str(tmp_path / "whole")}, "whole")
    tiny.train(whole, *options)
    (tmp_path / "out").mkdir()
    shutil.copy(tmp_path / "whole" / "model_0000003.ckpt", tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000003.ckpt")
    torch.manual_seed(12345)  # what a new process would draw is anybody's guess
    tiny.train(tiny.write_config(tmp_path, data, changes), *options, resume=True)
    a, b = tiny.weights(tmp_path / "whole"), tiny.weights(tmp_path / "out")
    assert any(name.startswith("adapters.") for name in a)
    return tiny.same(a, b)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_distilled_retinanet(tmp_path, data, teacher, workers):
    assert interrupted(tmp_path, data, tiny.distilled(teacher), "DATALOADER.NUM_WORKERS", workers) == []


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_distilled_faster_rcnn(tmp_path, data, rcnn_teacher, workers):
    """Its heads draw samples at random in every step."""
    changes = tiny.distilled(rcnn_teacher, tiny.FASTER_RCNN)
    assert interrupted(tmp_path, data, changes, "DATALOADER.NUM_WORKERS", workers) == []


def test_adamw_with_clipping_and_bfloat16(tmp_path, data, teacher):
    assert interrupted(tmp_path, data, tiny.distilled(teacher, ADAMW)) == []


def test_evaluation_on_the_way(tmp_path, data, teacher):
    changes = tiny.distilled(teacher, {"DATASETS": {"TEST": ["tiny"]}, "TEST": {"EVAL_PERIOD": 2}})
    assert interrupted(tmp_path, data, changes) == []


def test_a_loss_with_a_ramp(tmp_path, data, teacher):
    """Its weight depends on the iteration."""
    changes = tiny.distilled(teacher, {"KD": {"LOSSES": {"imitation": {"START_ITER": 1, "RAMP_ITERS": 4}}}})
    assert interrupted(tmp_path, data, changes) == []


def test_every_loss_at_once_with_a_ramp_in_progress(tmp_path, data, teacher):
    """Their adapters, their random draws and their weights over time."""
    assert interrupted(tmp_path, data, tiny.with_every_loss(teacher, START_ITER=1, RAMP_ITERS=4)) == []


def test_a_loss_that_stops_on_the_way(tmp_path, data, teacher):
    changes = tiny.distilled(teacher, {"KD": {"LOSSES": {"imitation": {"STOP_ITER": 2}}}})
    assert interrupted(tmp_path, data, changes) == []


def test_evaluation_on_the_way_changes_no_weight(tmp_path, data):
    short = tiny.merged(tiny.FASTER_RCNN, {"SOLVER": {"MAX_ITER": 3, "STEPS": []}, "TEST": {"DETECTIONS_PER_IMAGE": 5}})
    quiet = tiny.write_config(tmp_path, data, short)
    often = tiny.merged(short, {
        "DATASETS": {"TEST": ["tiny"]}, "TEST": {"EVAL_PERIOD": 1}, "OUTPUT_DIR": str(tmp_path / "often"),
    })
    tiny.train(quiet), tiny.train(tiny.write_config(tmp_path, data, often, "often"))
    assert tiny.same(tiny.weights(tmp_path / "out"), tiny.weights(tmp_path / "often")) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, teacher):
    """The folder of a finished distilled run of 6 iterations."""
    folder = tmp_path_factory.mktemp("finished")
    tiny.train(tiny.write_config(folder, data, tiny.distilled(teacher)))
    return folder


def test_a_finished_run_resumes_to_the_same_end(finished):
    before = tiny.weights(finished / "out")
    tiny.train(str(finished / "student.yaml"), resume=True)
    assert tiny.same(tiny.weights(finished / "out"), before) == []


def test_resume_without_a_checkpoint_starts_from_the_beginning(finished, tmp_path):
    tiny.train(str(finished / "student.yaml"), "OUTPUT_DIR", str(tmp_path / "new"), resume=True)
    assert tiny.same(tiny.weights(finished / "out"), tiny.weights(tmp_path / "new")) == []


def test_a_checkpoint_holds_nothing_of_the_teacher(finished):
    state = torch.load(finished / "out" / "model_0000006.ckpt", weights_only=True)["state_dict"]
    final = torch.load(finished / "out" / "model_final.pth", weights_only=True)
    own = {f"distiller.student.{name}" for name in final["model"]}
    assert all(name in own or name.startswith("distiller.losses.imitation.adapters.") for name in state)


def test_a_new_run_in_an_old_folder_is_resumed_from_its_own_checkpoints(tmp_path, data):
    """The old run got further, and its files are still there."""
    config = tiny.write_config(tmp_path, data, {"SOLVER": {"WARMUP_ITERS": 0, "STEPS": []}})
    tiny.train(config, "SOLVER.MAX_ITER", "9")
    tiny.train(config, "SOLVER.MAX_ITER", "3", "SEED", "8")
    tiny.train(config, "SOLVER.MAX_ITER", "5", "SEED", "8", resume=True)
    tiny.train(config, "SOLVER.MAX_ITER", "5", "SEED", "8", "OUTPUT_DIR", str(tmp_path / "whole"))
    assert tiny.same(tiny.weights(tmp_path / "out"), tiny.weights(tmp_path / "whole")) == []


def test_a_drawn_seed_is_kept_when_resuming(tmp_path, data, monkeypatch):
    config = tiny.write_config(tmp_path, data, {"SEED": -1})
    monkeypatch.setenv("PL_GLOBAL_SEED", "31")
    tiny.train(config)
    expected = tiny.weights(tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000003.ckpt")
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    tiny.train(config, resume=True)
    assert tiny.same(tiny.weights(tmp_path / "out"), expected) == []


def test_a_truncated_checkpoint_is_refused(tmp_path, data):
    config = tiny.write_config(tmp_path, data)
    tiny.train(config)
    with open(tmp_path / "out" / "model_0000006.ckpt", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ConfigError, match="^--resume: .*model_0000006.ckpt is truncated or no checkpoint"):
        tiny.train(config, resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, data):
    config = tiny.write_config(tmp_path, data)
    tiny.train(config)
    text = "^--resume: the checkpoint does not fit this model and these losses: .* other shape"
    with pytest.raises(ConfigError, match=text):
        tiny.train(config, "MODEL.FPN.OUT_CHANNELS", "24", resume=True)
