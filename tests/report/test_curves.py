"""Curves from CSV logs."""

import runpy
import sys
from pathlib import Path

import pytest

from kd2.distill import DataError
from kd2.report.curves import draw_curves
from kd2.report.logs import read_curve


def write_log(folder: Path, version: int, rows: list[str]) -> None:
    path = folder / "csv" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(["cls/top1,epoch,loss,step", *rows]) + "\n")


def test_rows_without_the_metric_are_left_out(tmp_path):
    write_log(tmp_path, 0, [",0.5,3.0,4", "40.0,1.0,,9", "50.0,2.0,,19"])
    assert read_curve(str(tmp_path), "cls/top1", "epoch") == ([1.0, 2.0], [40.0, 50.0])


def test_a_resumed_run_takes_over_where_it_began(tmp_path):
    write_log(tmp_path, 0, ["40.0,1.0,,9", "50.0,2.0,,19", "55.0,3.0,,29"])
    write_log(tmp_path, 1, ["51.0,2.0,,19"])
    assert read_curve(str(tmp_path), "cls/top1", "step") == ([9.0, 19.0], [40.0, 51.0])


def test_an_unknown_metric_is_named(tmp_path):
    write_log(tmp_path, 0, ["40.0,1.0,,9"])
    with pytest.raises(DataError, match="its log has no cls/top2 over epoch; did you mean cls/top1"):
        read_curve(str(tmp_path), "cls/top2", "epoch")


def test_a_folder_without_a_log_is_named(tmp_path):
    with pytest.raises(DataError, match="no log csv/version_"):
        read_curve(str(tmp_path), "cls/top1", "epoch")


def test_the_picture_and_its_table(tmp_path):
    for name, value in (("a", 40.0), ("b", 45.0)):
        write_log(tmp_path / name, 0, [f"{value},1.0,,9", f"{value - 1},2.0,,19"])
    rows = draw_curves([str(tmp_path / "a"), str(tmp_path / "b")], "cls/top1", "epoch", str(tmp_path / "x" / "y.png"))
    assert rows == [("a", 39.0, 40.0), ("b", 44.0, 45.0)] and (tmp_path / "x" / "y.png").stat().st_size > 1000


def test_the_command_draws_and_prints(tmp_path, monkeypatch, capsys):
    write_log(tmp_path / "a", 0, ["40.0,1.0,,9", "39.0,2.0,,19"])
    monkeypatch.setattr(sys, "argv", ["plot_runs.py", "--output", str(tmp_path / "runs.png"), str(tmp_path / "a")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).parents[2] / "tools" / "plot_runs.py"), run_name="__main__")
    assert (end.value.code, (tmp_path / "runs.png").exists()) == (0, True)
    assert [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")[1:-1]] == ["a", "39", "40"]
