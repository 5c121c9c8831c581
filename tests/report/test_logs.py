"""Logs of both trainers."""

import json
from pathlib import Path

import pytest

from kd2.distill import DataError
from kd2.report.logs import read_curve, read_log, training_seconds


def write_lines(folder: Path, *lines: dict, end: str = "") -> str:
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return str(folder)


def test_detectron2_counts_iterations_as_steps(tmp_path):
    folder = write_lines(tmp_path, {"iteration": 19, "loss": 3.0}, {"iteration": 39, "loss": 2.0, "bbox/AP": 5.0})
    assert read_curve(folder, "loss", "step") == ([19.0, 39.0], [3.0, 2.0])
    assert read_curve(folder, "bbox/AP", "step") == ([39.0], [5.0])


def test_a_resumed_run_of_detectron2_takes_over_where_it_began(tmp_path):
    lines = [{"iteration": i, "loss": float(i)} for i in (19, 39, 59)] + [{"iteration": 39, "loss": -1.0}]
    assert read_curve(write_lines(tmp_path, *lines), "loss", "step") == ([19.0, 39.0], [19.0, -1.0])


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    folder = write_lines(tmp_path, {"iteration": 19, "loss": 3.0}, end='{"iteration": 39, "lo')
    assert read_log(folder) == [{"step": 19.0, "loss": 3.0}]


@pytest.mark.parametrize("text", ["no json\n", '["a"]\n', '{"iteration": 1, "loss": "high"}\n'])
def test_a_damaged_log_is_named(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json: a line of the log holds no numbers by name"):
        read_log(str(tmp_path))


def test_training_time_is_that_of_the_steps_in_each_line():
    rows = [{"step": 19.0, "time": 0.5}, {"step": 39.0, "time": 1.0}, {"step": 40.0, "bbox/AP": 3.0}]
    assert training_seconds(rows) == 20 * 0.5 + 20 * 1.0


def test_a_log_without_times_tells_none():
    assert training_seconds([{"step": 19.0, "loss": 1.0}]) is None
