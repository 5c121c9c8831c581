"""The page of a comparison: what it says, what it writes, what it refuses."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from kd2.distill import ConfigError, DataError
from kd2.report.compare import compare

from ..helpers.run_folders import DISTILLED, TEACHER, write_run

ROOT = Path(__file__).parents[2]


def runs(folder: Path, seeds: tuple[int, ...] = (1, 2, 3)) -> list[str]:
    """Distilled students 5, 6, 4.5 points above the students alone; a teacher at 60."""
    gains = {1: 5.0, 2: 6.0, 3: 4.5}
    found = [write_run(folder / "teacher", 1, 60.0, TEACHER)]
    for seed in seeds:
        found.append(write_run(folder / f"alone{seed}", seed, 40.0 + seed))
        found.append(write_run(folder / f"distilled{seed}", seed, 40.0 + seed + gains[seed], DISTILLED))
    return found


def page(folder: Path, folders: list[str], **options) -> tuple[dict, str]:
    content = compare(folders, str(folder / "page"), models=False, **options)
    return content, (folder / "page" / "report.md").read_text()


def test_the_interval_over_seeds_is_paired(tmp_path):
    content, text = page(tmp_path, runs(tmp_path))
    words = "+5.2 (95 % interval +3.3 to +7.1 over 3 seeds)"
    assert content["verdict"] == [f"imitation is better than the student alone: bbox/AP {words}."]
    assert f"| imitation | 47.2 | {words} | 29 % | 40 | 80 s | 3 finished |" in text  # (47.17 - 42) / (60 - 42)


def test_an_interval_that_holds_zero_is_not_distinguishable(tmp_path):
    folders = runs(tmp_path)[:5]
    path = tmp_path / "distilled2" / "results.json"
    path.write_text(path.read_text().replace("48.0", "41.0"))
    content, text = page(tmp_path, folders)
    assert content["verdict"][0].startswith("imitation is not distinguishable from the student alone: bbox/AP +2.0")
    assert content["verdict"][0].endswith("not distinguishable.") and "not distinguishable" in text


def test_over_one_seed_there_is_no_interval_and_it_says_why(tmp_path):
    content, text = page(tmp_path, runs(tmp_path, (1,)))
    assert content["verdict"] == [
        "imitation ends above the student alone on one seed: bbox/AP +5.0 (no interval: one seed has no spread)."
    ]
    assert "95 %" not in text


def test_scores_are_told_in_total_by_class_and_by_size(tmp_path):
    content, text = page(tmp_path, runs(tmp_path))
    kinds = {name: score["kind"] for name, score in content["groups"][2]["scores"].items()}
    assert (kinds["bbox/AP50"], kinds["bbox/APs"], kinds["bbox/AP-cell"]) == ("total", "size", "class")
    assert "| bbox/AP-cell | 60.0 | 42.0 | 47.2 (+5.2, +3.3 to +7.1) |" in text
    assert "| bbox/APl | - | - | - |" in text  # nothing of that size is there


def test_the_student_alone_at_equal_time_is_set_beside(tmp_path):
    longer = write_run(tmp_path / "longer", 1, 44.0, {"SOLVER": {"MAX_ITER": 90}}, seconds=2.5)
    slow = write_run(tmp_path / "slow", 1, 45.0, DISTILLED, seconds=2.4)
    _, text = page(tmp_path, [write_run(tmp_path / "alone", 1, 40.0), longer, slow])
    assert "imitation and student alone, MAX_ITER 90 at equal wall-clock time (96 s, 100 s): +1.0" in text


def test_a_teacher_that_is_no_better_is_named(tmp_path):
    folders = [write_run(tmp_path / name, 1, ap, changes) for name, ap, changes in
               (("t", 40.0, TEACHER), ("a", 40.0, {}), ("d", 41.0, DISTILLED))]  # fmt: skip
    content, _ = page(tmp_path, folders)
    assert content["verdict"][1] == "The teacher (40.0) is no better than the student alone (40.0)."
    assert content["groups"][2]["scores"]["bbox/AP"]["recovery"] is None


def test_the_html_page_holds_everything(tmp_path):
    page(tmp_path, runs(tmp_path))
    text = (tmp_path / "page" / "report.html").read_text()
    assert text.count('src="data:image/png;base64,') == text.count("<img") > 0 and "http" not in text
    assert (tmp_path / "page" / "pictures" / "curve_total_loss.png").exists()
    assert list((tmp_path / "page" / "tensorboard").glob("events.out.tfevents.*"))


def test_names_of_files_are_text_in_the_page(tmp_path):
    page(tmp_path, [write_run(tmp_path / "<b>a|b", 1, 40.0)])
    assert "&lt;b&gt;a|b" in (tmp_path / "page" / "report.html").read_text()
    assert "&lt;b&gt;a\\|b" in (tmp_path / "page" / "report.md").read_text()


def test_an_earlier_page_is_replaced_only_when_asked(tmp_path):
    folders = runs(tmp_path, (1,))
    page(tmp_path, folders)
    with pytest.raises(ConfigError, match="holds report.md; --overwrite replaces it"):
        page(tmp_path, folders)
    page(tmp_path, folders, overwrite=True)


def test_another_metric_can_be_the_one(tmp_path):
    content, _ = page(tmp_path, runs(tmp_path, (1,)), metric="bbox/AP50")
    assert "bbox/AP50 +5.0" in content["verdict"][0]
    with pytest.raises(DataError, match="--metric: no run has bbox/AP51; did you mean bbox/AP50"):
        page(tmp_path, [str(tmp_path / "alone1")], metric="bbox/AP51", overwrite=True)


def test_runs_without_an_evaluation_cannot_be_compared(tmp_path):
    folder = write_run(tmp_path / "a", 1, 40.0, finished=False)
    (tmp_path / "a" / "metrics.json").write_text("")
    with pytest.raises(DataError, match="hold no evaluation yet"):
        page(tmp_path, [folder])


def test_models_that_cannot_be_built_are_a_note(tmp_path):
    content = compare(runs(tmp_path, (1,)), str(tmp_path / "page"), images=1)
    assert any(note.startswith("No costs of student alone: ") for note in content["notes"])


def test_the_command_prints_the_verdict(tmp_path, monkeypatch, capsys):
    words = ["compare.py", *runs(tmp_path, (1,)), "--output", str(tmp_path / "page"), "--logs-only"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / "compare.py"), run_name="__main__")
    assert end.value.code == 0 and "imitation ends above" in capsys.readouterr().out
    assert json.loads((tmp_path / "page" / "report.json").read_text())["metric"] == "bbox/AP"


def test_why_there_is_no_difference_is_said(tmp_path):
    alone, other = write_run(tmp_path / "a", 1, 40.0), write_run(tmp_path / "d2", 2, 41.0, DISTILLED)
    running = write_run(tmp_path / "d1", 1, 41.0, DISTILLED, finished=False)
    told = {
        "imitation: no seed in common with the student alone (seeds [2] and [1]), so no difference.": [alone, other],
        "imitation: no finished student alone of its model is among the runs, so no difference.": [other],
        "imitation: no run of it is finished, so no difference.": [alone, running],
        "No run has a distillation loss that counts: there is no difference to tell.": [alone],
    }
    for number, (words, folders) in enumerate(told.items()):
        content, _ = page(tmp_path / str(number), folders)
        assert content["verdict"] == [words]


def test_a_folder_that_cannot_be_written_is_the_output(tmp_path):
    (tmp_path / "page").touch()
    with pytest.raises(ConfigError, match=r"^--output '.*page' is not writable: File exists$"):
        page(tmp_path, runs(tmp_path, (1,)))


def test_recovery_and_difference_are_of_the_shared_seeds_and_the_others_are_named(tmp_path):
    _, text = page(tmp_path, [*runs(tmp_path, (1,)), write_run(tmp_path / "distilled9", 9, 59.0, DISTILLED)])
    assert "| imitation | 52.5 | +5.0 (no interval: one seed has no spread) | 26 % |" in text  # 5 / (60 - 41)
    assert "imitation and its student alone share the seeds 1, of which difference and recovery are; 9 only one" in text


def test_a_teacher_that_did_not_teach_is_named(tmp_path):
    folders = runs(tmp_path, (1,))
    _, text = page(tmp_path, folders)
    assert f"The recovery of imitation is told by {folders[0]}, the only teacher here; its KD.TEACHER.WEIGHTS" in text
    own = DISTILLED["KD"] | {"TEACHER": {"WEIGHTS": f"{folders[0]}/model_final.pth"}}
    taught = write_run(tmp_path / "taught", 1, 46.0, {"KD": own})
    _, text = page(tmp_path, [*folders[:2], taught], overwrite=True)
    assert "is told by" not in text


def test_nothing_of_an_earlier_page_is_left(tmp_path):
    folders = runs(tmp_path, (1,))
    page(tmp_path, folders)
    earlier = tmp_path / "page" / "pictures" / "mgd_holes.png"
    earlier.touch()
    events = set((tmp_path / "page" / "tensorboard").iterdir())
    page(tmp_path, folders, overwrite=True)
    assert not earlier.exists() and not events & set((tmp_path / "page" / "tensorboard").iterdir())


def test_a_student_alone_that_trained_much_longer_is_not_at_equal_time(tmp_path):
    longer = write_run(tmp_path / "longer", 1, 44.0, {"SOLVER": {"MAX_ITER": 90}}, seconds=4.0)
    slow = write_run(tmp_path / "slow", 1, 45.0, DISTILLED, seconds=2.4)
    _, text = page(tmp_path, [write_run(tmp_path / "alone", 1, 40.0), longer, slow])
    assert "imitation and student alone, MAX_ITER 90 that trained longer (96 s, 160 s): +1.0" in text


def test_a_teacher_that_is_hardly_better_leaves_nothing_to_recover(tmp_path):
    folders = [write_run(tmp_path / name, 1, ap, changes) for name, ap, changes in
               (("t", 40.9, TEACHER), ("a", 40.0, {}), ("d", 38.0, DISTILLED))]  # fmt: skip
    content, _ = page(tmp_path, folders)
    assert content["verdict"][1] == "The teacher (40.9) is hardly better than the student alone (40.0)."
    assert content["groups"][2]["scores"]["bbox/AP"]["recovery"] is None
