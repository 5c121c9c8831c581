"""A run that is resumed at a checkpoint equals the run that was never interrupted, bit for bit."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")


import torch

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

# Images of more than 64 pixels: torch's bfloat16 weight gradient of a strided convolution over maps one cell wide reads
# uninitialized memory on some CPUs.
ADAMW = {
    "INPUT": {"MIN_SIZE_TRAIN": [96, 104], "MAX_SIZE_TRAIN": 128},
    "SOLVER": {
        "OPTIMIZER": "AdamW",
        "LR_SCHEDULER_NAME": "WarmupCosineLR",
        "AMP": {"ENABLED": True, "PRECISION": "bf16"},
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_VALUE": 0.5},
    },
}


def interrupted(tmp_path, data, changes: dict, *options: str) -> list[str]:
    """Names of the weights that differ between a whole run of 6 iterations and one resumed at iteration 3."""
    whole = tiny.write_config(tmp_path, data, changes | {"OUTPUT_DIR": str(tmp_path / "whole")}, "whole")
    runs.train(whole, *options)
    runs.resumed(whole, tmp_path / "whole", 3, tmp_path / "out", *options)
    a, b = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "out")
    assert any(name.startswith("adapters.") for name in a)
    return runs.same(a, b)


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
    short = runs.merged(tiny.FASTER_RCNN, {"SOLVER": {"MAX_ITER": 3, "STEPS": []}, "TEST": {"DETECTIONS_PER_IMAGE": 5}})
    quiet = tiny.write_config(tmp_path, data, short)
    often = runs.merged(
        short,
        {
            "DATASETS": {"TEST": ["tiny"]},
            "TEST": {"EVAL_PERIOD": 1},
            "OUTPUT_DIR": str(tmp_path / "often"),
        },
    )
    runs.train(quiet), runs.train(tiny.write_config(tmp_path, data, often, "often"))
    assert runs.same(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "often")) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, teacher):
    """The folder of a finished distilled run of 6 iterations."""
    folder = tmp_path_factory.mktemp("finished")
    runs.train(tiny.write_config(folder, data, tiny.distilled(teacher)))
    return folder


def test_a_finished_run_resumes_to_the_same_end(finished):
    before = runs.weights(finished / "out")
    runs.train(str(finished / "student.yaml"), resume=True)
    assert runs.same(runs.weights(finished / "out"), before) == []


def test_resume_without_a_checkpoint_is_refused(finished, tmp_path):
    text = f"^--resume: OUTPUT_DIR '{tmp_path}/new' has no checkpoint to go on from; start without --resume$"
    with pytest.raises(ConfigError, match=text):
        runs.train(str(finished / "student.yaml"), "OUTPUT_DIR", str(tmp_path / "new"), resume=True)


def test_a_checkpoint_holds_nothing_of_the_teacher(finished):
    content = runs.checkpoint(finished / "out", 6)
    student = runs.experiment(str(finished / "student.yaml")).build_student().module
    assert content["model"].keys() == student.state_dict().keys()
    assert all(name.startswith("imitation.adapters.") for name in content["adapters"])
    assert content["trainer"]["module"] == {}


def test_a_run_that_overwrote_another_is_resumed_from_its_own_checkpoints(tmp_path, data):
    """The old run got further."""
    config = tiny.write_config(tmp_path, data, {"SOLVER": {"WARMUP_ITERS": 0, "STEPS": []}})
    runs.train(config, "SOLVER.MAX_ITER", "9")
    runs.train(config, "SOLVER.MAX_ITER", "3", "SEED", "8", overwrite=True)
    runs.train(config, "SOLVER.MAX_ITER", "5", "SEED", "8", resume=True)
    runs.train(config, "SOLVER.MAX_ITER", "5", "SEED", "8", "OUTPUT_DIR", str(tmp_path / "whole"))
    assert runs.same(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "whole")) == []


def test_a_drawn_seed_is_kept_when_resuming(tmp_path, data, monkeypatch):
    config = tiny.write_config(tmp_path, data, {"SEED": -1})
    monkeypatch.setenv("PL_GLOBAL_SEED", "31")
    runs.train(config)
    expected = runs.weights(tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000003.pth")
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    runs.train(config, resume=True)
    assert runs.same(runs.weights(tmp_path / "out"), expected) == []


def test_a_truncated_checkpoint_is_refused(tmp_path, data):
    config = tiny.write_config(tmp_path, data)
    runs.train(config)
    with open(tmp_path / "out" / "model_final.pth", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ConfigError, match="^--resume: .*model_final.pth is truncated or no checkpoint"):
        runs.train(config, resume=True)


def test_a_checkpoint_that_does_not_fit_the_model_is_refused(tmp_path, data):
    """The configs agree, the networks that they make do not: another version of a library, say."""
    config = tiny.write_config(tmp_path, data)
    runs.train(config)
    content = runs.checkpoint(tmp_path / "out")
    content["model"].popitem()
    torch.save(content, tmp_path / "out" / "model_final.pth")
    text = "^--resume: the checkpoint does not fit this model and these losses: .* 1 missing"
    with pytest.raises(ConfigError, match=text):
        runs.train(config, "SOLVER.MAX_ITER", "7", resume=True)
