"""Golden vectors: the stored ones are reproduced, and the check itself notices what is wrong."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kd2.distill import DataError
from tests.golden.runners import verify, verify_case

FOLDER = Path(__file__).parent
IMITATION = FOLDER / "imitation"
TOOL = FOLDER.parents[1] / "tools" / "verify_golden.py"
STORED = sorted(path.with_suffix("") for path in FOLDER.rglob("*.npz"))


@pytest.mark.parametrize("stem", STORED, ids=lambda stem: f"{stem.parent.name}/{stem.name}")
def test_stored_vectors_are_reproduced(stem):
    result = verify_case(stem)
    assert result.ok, f"{result.reason} (largest error {result.error} of its tolerance, in {result.output})"


def changed(folder: Path, name: str, arrays: dict | None = None, **meta) -> Path:
    """A copy of an imitation case with some arrays replaced (None removes one) and some fields of its json."""
    stored = dict(np.load(IMITATION / f"{name}.npz")) | (arrays or {})
    np.savez(folder / f"{name}.npz", **{k: v for k, v in stored.items() if v is not None})
    (folder / f"{name}.json").write_text(json.dumps(json.loads((IMITATION / f"{name}.json").read_text()) | meta))
    return folder


def stored(name: str, array: str) -> np.ndarray:
    return np.load(IMITATION / f"{name}.npz")[array]


# What the check notices.


def test_an_unchanged_copy_passes(tmp_path):
    assert verify([changed(tmp_path, "loss_adapt_b1")])[0].ok


@pytest.mark.parametrize("array", ["out.loss", "grad.student", "grad.conv_weight", "grad.conv_bias"])
def test_a_corrupted_number_fails_and_is_named(tmp_path, array):
    wrong = stored("loss_adapt_b1", array)
    wrong.reshape(-1)[np.abs(wrong).argmax()] *= 1 + 1e-7
    result = verify([changed(tmp_path, "loss_adapt_b1", {array: wrong})])[0]
    assert result.reason == f"beyond the tolerance: {array}"
    assert result.error == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("array", ["out.mask", "out.mask_noplus1"])
def test_one_wrong_cell_of_a_mask_fails(tmp_path, array):
    wrong = stored("mask9_psi05", array)
    wrong[0, 0, 0] = 1 - wrong[0, 0, 0]
    assert array in verify([changed(tmp_path, "mask9_psi05", {array: wrong})])[0].reason


def test_a_count_that_contradicts_the_mask_fails(tmp_path):
    wrong = np.zeros_like(stored("mask9_psi05", "out.count"))
    result = verify([changed(tmp_path, "mask9_psi05", {"out.count": wrong})])[0]
    assert result.reason == "beyond the tolerance: out.count"


def test_a_number_that_is_not_a_number_fails(tmp_path):
    assert verify([changed(tmp_path, "loss_full", {"out.loss": np.array(np.nan)})])[0].error == float("inf")


def test_an_array_of_another_shape_fails(tmp_path):
    result = verify([changed(tmp_path, "loss_full", {"grad.conv_bias": np.zeros(3)})])[0]
    assert result.reason == "DataError: grad.conv_bias has shape (8,), stored is (3,)"


def test_a_method_that_nobody_knows_fails(tmp_path):
    result = verify([changed(tmp_path, "loss_full", method="imitation los")])[0]
    text = "DataError: nobody knows how to run method 'imitation los'; did you mean imitation loss"
    assert result.reason.startswith(text)


def test_an_output_that_is_not_computed_fails(tmp_path):
    result = verify([changed(tmp_path, "loss_full", {"out.more": np.zeros(1)})])[0]
    assert result.reason == "DataError: ['out.more'] were not computed"


def test_an_output_listed_as_informative_need_not_be_computed(tmp_path):
    assert verify([changed(tmp_path, "loss_full", {"out.more": np.zeros(1)}, informative_only=["out.more"])])[0].ok


def test_a_case_without_outputs_fails(tmp_path):
    nothing = dict.fromkeys(["out.mask", "out.loss", "grad.student", "grad.conv_weight", "grad.conv_bias"])
    assert "stores nothing to check" in verify([changed(tmp_path, "loss_full", nothing)])[0].reason


@pytest.mark.parametrize("lost", ["json", "npz"])
def test_half_a_pair_fails(tmp_path, lost):
    (changed(tmp_path, "loss_full") / f"loss_full.{lost}").unlink()
    assert f"loss_full.{lost} is missing, the other half of the pair is there" in verify([tmp_path])[0].reason


def test_a_missing_input_fails_and_the_others_are_still_checked(tmp_path):
    changed(tmp_path, "loss_full", {"in.teacher": None})
    changed(tmp_path, "loss_gtbox")
    assert [(Path(r.name).name, r.ok) for r in verify([tmp_path])] == [("loss_full", False), ("loss_gtbox", True)]


def test_a_directory_without_cases_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pair NAME.npz and NAME.json"):
        verify([tmp_path])


def test_a_directory_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a directory"):
        verify([tmp_path / "nowhere"])


# The command.


def command(monkeypatch, capsys, *directories: Path) -> tuple[int, str, str]:
    """Exit status, last line of the output, errors."""
    monkeypatch.setattr(sys, "argv", ["verify_golden.py", *map(str, directories)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    printed = capsys.readouterr()
    return end.value.code, printed.out.strip().rpartition("\n")[2], printed.err.strip()


def test_the_command_exits_0_when_all_pass(tmp_path, monkeypatch, capsys):
    changed(tmp_path, "loss_full")
    assert command(monkeypatch, capsys, tmp_path) == (0, "1 passed, 0 failed", "")


def test_the_command_exits_1_on_a_case_nobody_knows(tmp_path, monkeypatch, capsys):
    changed(tmp_path, "loss_gtbox")
    changed(tmp_path, "loss_full", method="other")
    assert command(monkeypatch, capsys, tmp_path) == (1, "1 passed, 1 failed", "")


def test_the_command_exits_1_without_cases(tmp_path, monkeypatch, capsys):
    code, _, errors = command(monkeypatch, capsys, tmp_path)
    assert (code, errors) == (1, f"error: {tmp_path} holds no pair NAME.npz and NAME.json")


def test_the_command_checks_several_directories(tmp_path, monkeypatch, capsys):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        for suffix in ("npz", "json"):
            shutil.copy(IMITATION / f"mask1_tie.{suffix}", folder)
    assert command(monkeypatch, capsys, *folders)[:2] == (0, "2 passed, 0 failed")
