"""A run that was stopped and resumed ends with the weights of the run that was not."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from kd2.distill import ConfigError
from kd2.losses.registry import loss_types

from ...helpers import contents
from ...helpers.d2_tiny import different, every_loss, previous, train, weights, write_pair


@pytest.fixture(scope="module")
def uninterrupted(pair, tmp_path_factory):
    """Output folder after 4 iterations with a checkpoint and an evaluation after 2."""
    folder = str(tmp_path_factory.mktemp("whole"))
    train(pair, "OUTPUT_DIR", folder, "TEST.EVAL_PERIOD", "2", "DATASETS.TEST", "['tiny']")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_weights_equal_those_of_the_whole_run(pair, uninterrupted, tmp_path, workers):
    options = ["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", str(workers), "SOLVER.CHECKPOINT_PERIOD", "2"]
    train(pair, *options, "TEST.EVAL_PERIOD", "2", "DATASETS.TEST", "['tiny']")
    os.remove(tmp_path / "model_final.pth")
    previous(tmp_path)
    torch.manual_seed(12345)
    train(pair, *options, resume=True)
    assert different(weights(tmp_path), weights(uninterrupted)) == []


# Losses without parameters.
WITHOUT = {"channel_kd", "dense_kd", "dist", "dkd", "logits", "pairwise", "pixelwise", "roi_kd"}


def test_every_loss_at_once_with_a_ramp_in_progress(data, tmp_path):
    """Their adapters, their random draws and their weights over time."""
    pair = write_pair(tmp_path, data, every_loss(START_ITER=1, RAMP_ITERS=2))
    train(pair)
    whole = weights(tmp_path / "out")
    previous(tmp_path / "out")
    torch.manual_seed(12345)
    train(pair, resume=True)
    adapters = {name.split(".")[1] for name in whole if name.startswith("adapters.")}
    assert adapters == set(loss_types()) - WITHOUT
    assert different(weights(tmp_path / "out"), whole) == []


def test_a_share_goes_on_between_two_measurements(retinanets, tmp_path):
    """Resumed in iteration 4, which is not measured as those before it were; 5 is."""
    blocks = "{'imitation': {'SHARE': 0.5, 'CALIBRATE_ITERS': 2}, 'mgd': {'SHARE': 1.0, 'CALIBRATE_ITERS': 2}}"
    options = ["KD.LOSSES", blocks, "SOLVER.MAX_ITER", "7", "SOLVER.CHECKPOINT_PERIOD", "4"]
    train(retinanets, *options, "OUTPUT_DIR", str(tmp_path))
    whole = torch.load(tmp_path / "model_final.pth", weights_only=True)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    torch.manual_seed(12345)
    train(retinanets, *options, "OUTPUT_DIR", str(tmp_path), resume=True)
    found = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert found["kd2"]["shares"]["mgd.seen"] == 5
    assert contents.different(found, whole) == []


def test_precise_batch_norm_continues_its_own_batches(retinanets, tmp_path):
    precise = ["TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2", "TEST.EVAL_PERIOD", "2"]
    options = [*precise, "OUTPUT_DIR", str(tmp_path)]
    train(retinanets, *options)
    whole = weights(tmp_path)
    previous(tmp_path)
    train(retinanets, *options, resume=True)
    assert different(weights(tmp_path), whole) == []


def test_a_drawn_seed_is_saved_and_used_again(retinanets, tmp_path):
    options = ["OUTPUT_DIR", str(tmp_path), "SEED", "-1"]
    train(retinanets, *options)
    whole, seed = weights(tmp_path), yaml.safe_load((tmp_path / "config.yaml").read_text())["SEED"]
    assert seed >= 0
    previous(tmp_path)
    train(retinanets, *options, resume=True)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["SEED"] == seed
    assert different(weights(tmp_path), whole) == []


def test_resume_without_a_checkpoint_is_refused(retinanets, tmp_path):
    with pytest.raises(ConfigError, match="^--resume: OUTPUT_DIR .* has no checkpoint to go on from"):
        train(retinanets, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1", resume=True)


def test_a_run_with_other_losses_cannot_be_resumed(retinanets, tmp_path):
    train(retinanets, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1", "KD.LOSSES.imitation.ADAPTER", "conv3x3")
    other = "KD.LOSSES.hint.WEIGHT was not given, is 0.1"
    text = f"^--resume: KD.LOSSES.imitation.ADAPTER was 'conv3x3', is not given; {other}"
    with pytest.raises(ConfigError, match=text):
        train(retinanets, "OUTPUT_DIR", str(tmp_path), "KD.LOSSES.hint.WEIGHT", "0.1", resume=True)


def python(program: str) -> subprocess.Popen:
    """A new process that trains on its own."""
    root = str(Path(__file__).parents[3])
    program = f"import torch; torch.set_num_threads(1); from tests.helpers.d2_tiny import train; {program}"
    return subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": root}, stderr=subprocess.DEVNULL
    )


def test_a_killed_run_goes_on(retinanets, tmp_path):
    process = python(f"train({retinanets!r}, 'OUTPUT_DIR', {str(tmp_path)!r}, 'SOLVER.MAX_ITER', '9999')")
    deadline = time.time() + 120
    while not (tmp_path / "last_checkpoint").exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = int((tmp_path / "last_checkpoint").read_text().removeprefix("model_").removesuffix(".pth"))
    train(retinanets, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", str(last + 3), resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == last + 2


@pytest.mark.slow
def test_a_new_process_repeats_what_the_old_one_would_have_done(retinanets, tmp_path):
    """What a process does differently at its first iteration (compiling a loss, say) has no part in the weights."""
    run = f"train({retinanets!r}, 'OUTPUT_DIR', {str(tmp_path)!r}, 'SOLVER.MAX_ITER', '8', resume=%s)"
    assert python(run % False).wait() == 0
    whole = weights(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    assert python(run % True).wait() == 0
    assert different(weights(tmp_path), whole) == []
