"""Benchmarks: what they measure, and that the fast forms compute what the formulas do. Speed is not tested."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import loss_cases, max_error, rows
from benchmarks.measure import median_ms, peak_mib
from benchmarks.reading import draw, read_rows
from kd2.data.detection.coco import read_coco

CPU = torch.device("cpu")
TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
MIB = 1 << 18  # float32 elements of one MiB


@pytest.mark.parametrize("name", loss_cases())
def test_the_fast_form_equals_the_formula(name):
    case = loss_cases()[name](CPU)
    assert max_error(case.finished(case.ours)(), case.finished(case.formula)()) <= case.tolerance


def test_interval_masks_need_less_than_five_mib():
    assert peak_mib(loss_cases()["interval_mask"](CPU).ours, CPU) < 5


@pytest.mark.parametrize(
    ("name", "most"),
    [("pixelwise_19x512x512", 0.75 * 57), ("pairwise_65x65", 549 / 5)],
    ids=["pixels against rows of classes", "nodes against graphs of all pairs"],
)
def test_segmentation_losses_need_less_memory_than_their_formulas(name, most):
    case = loss_cases()[name](CPU)
    assert peak_mib(case.finished(case.ours), CPU) < most


def test_a_row_has_a_time_and_memory_for_both_sides():
    (row,) = rows(["interval_mask"], [1], CPU, repeats=1)
    assert list(row) == [
        "name", "threads", "ours_ms", "formula_ms", "ratio", "ours_mib", "formula_mib",
        "ours_saved_mib", "formula_saved_mib", "max_error", "tolerance",
    ]  # fmt: skip
    assert (row["name"], row["threads"]) == ("interval_mask", 1)
    assert row["ratio"] == pytest.approx(row["formula_ms"] / row["ours_ms"])


def test_a_case_has_a_row_for_every_number_of_threads():
    assert [row["threads"] for row in rows(["interval_mask"], [1, 2], CPU, repeats=1)] == [1, 2]


def test_measuring_restores_the_number_of_threads():
    before = torch.get_num_threads()
    median_ms([lambda: None], before + 1, repeats=1)
    assert torch.get_num_threads() == before


def test_the_calls_take_turns():
    turns = []
    times = median_ms([lambda: turns.append("a"), lambda: turns.append("b")], 1, repeats=3)
    assert [name for i, name in enumerate(turns) if i == 0 or turns[i - 1] != name] == ["a", "b"] * 3
    assert all(time > 0 for time in times)


def test_peak_memory_is_what_is_held_at_once():
    def call() -> None:
        for _ in range(3):
            torch.zeros(MIB)  # freed at once
        both = torch.zeros(MIB), torch.zeros(MIB)
        del both

    assert peak_mib(call, CPU) == pytest.approx(2, abs=0.01)


def test_peak_memory_counts_the_backward_pass():
    x = torch.zeros(MIB, requires_grad=True)
    assert peak_mib(lambda: torch.autograd.grad(x.exp().sum(), x), CPU) >= 2


def test_memory_held_before_the_call_does_not_count():
    held = torch.zeros(MIB)
    assert peak_mib(lambda: held.sum(), CPU) < 0.01


def test_errors_are_relative_to_the_largest_element():
    assert max_error([torch.tensor([1.0, 11.0])], [torch.tensor([0.0, 10.0])]) == pytest.approx(0.1)


def test_a_different_mask_is_an_error():
    assert max_error([torch.tensor([True, True])], [torch.tensor([True, False])]) == 1.0


def test_results_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"ours has shape \(1,\), the formula \(2,\)"):
        max_error([torch.zeros(1)], [torch.zeros(2)])


def test_a_missing_gradient_is_refused():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        max_error([torch.zeros(1)], [torch.zeros(1)] * 2)


def test_the_command_prints_and_stores_its_rows(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    arguments = ["losses", "--only", "interval_mask", "--threads", "one", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert end.value.code == 0
    assert [row["name"] for row in json.loads(file.read_text())] == ["interval_mask"]
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["interval_mask", "1"]


def test_reading_a_drawn_file_gives_a_row_a_way(tmp_path):
    draw(tmp_path / "drawn", images=4, objects=30)
    content = json.loads((tmp_path / "drawn" / "coco.json").read_text())
    assert [len(content[key]) for key in ("images", "annotations", "categories")] == [4, 30, 80]
    data = read_coco("drawn", str(tmp_path / "drawn" / "coco.json"), str(tmp_path / "drawn" / "images"))
    assert sum(len(record["annotations"]) for record in data.records) == 30 and not list(data.findings.rows())
    ways = {row[""]: row for row in read_rows(tmp_path / "drawn")}
    assert {"kd2 without headers", "kd2 with headers"} <= set(ways)
    assert all(row["seconds"] > 0 and row["MiB"] > 10 for row in ways.values())


def test_the_command_refuses_an_unknown_case(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(TOOL), "losses", "--only", "nothing"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert end.value.code == 1
    assert "interval_mask" in capsys.readouterr().err
