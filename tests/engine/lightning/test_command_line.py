"""tools/train_net.py as a command."""

import logging
import runpy
import sys

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from ...helpers import lightning_runs as runs
from ...helpers import tiny_detection
from ...helpers.launch import ROOT, killed, train_net

# A constant learning rate: the schedule then does not depend on the length of the run.
CONSTANT = {"SOLVER": {"WARMUP_ITERS": 0, "STEPS": [], "CHECKPOINT_PERIOD": 2}, "DATALOADER": {"NUM_WORKERS": 1}}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, data, rcnn_teacher):
    """A distilled Faster R-CNN, killed and resumed for three iterations more: folder, iterations, status and texts."""
    folder = tmp_path_factory.mktemp("killed")
    changes = tiny_detection.distilled(rcnn_teacher, runs.merged(tiny_detection.FASTER_RCNN, CONSTANT))
    config = tiny_detection.write_config(folder, data, runs.merged(changes, {"DATASETS": {"TEST": ["tiny"]}}))
    end = killed(config, folder / "out") + 3
    process = train_net("--config-file", config, "--resume", "SOLVER.MAX_ITER", str(end))
    texts = process.communicate(timeout=300)
    return folder, end, (process.returncode, *texts)


def test_a_killed_run_resumes_and_ends_well(resumed):
    status, _, errors = resumed[2]
    assert status == 0, errors


def test_a_killed_and_resumed_run_equals_one_that_was_not_killed(resumed):
    folder, end, _ = resumed
    runs.train(str(folder / "student.yaml"), "SOLVER.MAX_ITER", str(end), "OUTPUT_DIR", str(folder / "whole"))
    assert runs.same(runs.weights(folder / "out"), runs.weights(folder / "whole")) == []


def test_the_scores_are_printed_as_a_table(resumed):
    lines = [line.split() for line in resumed[2][1].splitlines() if line.startswith("| ")]
    assert lines[0] == ["|", "metric", "|", "value", "|"] and "bbox/AP" in [line[1] for line in lines]


def failed(capsys, monkeypatch, *words: str) -> list[str]:
    """Run the script in this process; it must exit with 1. Returns the lines on its error stream that say so."""
    monkeypatch.setattr(sys, "argv", ["train_net.py", *words])
    monkeypatch.setattr(logging.getLogger("kd2"), "handlers", [])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / "train_net.py"), run_name="__main__")
    assert end.value.code == 1
    text = capsys.readouterr().err
    return text[text.index("error: ") :].splitlines()


def test_a_bad_config_is_one_line(tmp_path, data, capsys, monkeypatch):
    config = tiny_detection.write_config(tmp_path, data)
    lines = failed(capsys, monkeypatch, "--config-file", config, "SOLVER.MAX_ITR", "5")
    assert lines == ["error: SOLVER.MAX_ITR: no such key; did you mean MAX_ITER, WARMUP_ITERS?"]


def test_an_error_of_a_data_loaders_worker_is_one_line(tmp_path, capsys, monkeypatch):
    """It comes with the worker's traceback."""
    tiny_detection.write_data(tmp_path / "own")
    for image in (tmp_path / "own" / "images").iterdir():
        image.write_bytes(b"no picture")
    config = tiny_detection.write_config(tmp_path, tmp_path / "own")
    lines = failed(capsys, monkeypatch, "--config-file", config, "DATALOADER.NUM_WORKERS", "1")
    assert len(lines) == 1 and lines[0].startswith(f"error: {tmp_path}/own/images/")


def test_an_unknown_framework_is_one_line(tmp_path, data, capsys, monkeypatch):
    config = tiny_detection.write_config(tmp_path, data)
    lines = failed(capsys, monkeypatch, "--config-file", config, "FRAMEWORK", "torchvison")
    assert lines == [f"error: FRAMEWORK in {config} is 'torchvison'; did you mean torchvision?"]
