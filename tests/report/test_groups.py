"""Runs sorted for a comparison, and runs that cannot be compared."""

import json

import pytest

from kd2.distill import DataError
from kd2.report.groups import at_equal_time, baseline, grouped, teacher_of
from kd2.report.run_folder import read_run

from ..helpers.run_folders import DISTILLED, TEACHER, write_run


def groups_of(*folders: str) -> list:
    return grouped([read_run(folder) for folder in folders])


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    folders = [write_run(tmp_path / f"{kind}{seed}", seed, 40.0 + seed, changes)
               for kind, changes in (("d", DISTILLED), ("a", {})) for seed in (1, 2)]  # fmt: skip
    found = groups_of(*folders, write_run(tmp_path / "t", 1, 50.0, TEACHER))
    assert [(g.role, g.label, len(g.runs)) for g in found] == [
        ("teacher", "teacher", 1), ("student alone", "student alone", 2), ("distilled", "imitation", 2),
    ]  # fmt: skip
    assert found[2].scores("bbox/AP") == {1: 41.0, 2: 42.0}
    assert baseline(found[2], found) is found[1] and teacher_of(found[2], found) is found[0]


def test_groups_of_one_loss_are_told_apart_by_what_differs(tmp_path):
    other = {"KD": {"LOSSES": {"imitation": {"WEIGHT": 0.5}}}}
    found = groups_of(write_run(tmp_path / "a", 1, 1.0, DISTILLED), write_run(tmp_path / "b", 1, 1.0, other))
    assert [g.label for g in found] == ["imitation, WEIGHT 1.0", "imitation, WEIGHT 0.5"]


@pytest.mark.parametrize("file", ["", "/model_final.pth"])
def test_a_run_that_gave_its_weights_is_the_teacher_whatever_its_model(tmp_path, file):
    teacher = write_run(tmp_path / "t", 1, 40.0)
    changes = DISTILLED["KD"] | {"TEACHER": {"WEIGHTS": f"{teacher}{file}"}}
    found = groups_of(write_run(tmp_path / "d", 1, 41.0, {"KD": changes}), teacher)
    assert [g.role for g in found] == ["teacher", "distilled"] and baseline(found[1], found) is None


def test_a_student_alone_of_another_length_is_the_one_at_equal_time(tmp_path):
    alone = write_run(tmp_path / "a", 1, 40.0)
    longer = write_run(tmp_path / "l", 1, 42.0, {"SOLVER": {"MAX_ITER": 80}}, seconds=4.0)
    distilled = write_run(tmp_path / "d", 1, 41.0, DISTILLED, seconds=3.9)
    found = groups_of(alone, longer, distilled)
    assert [g.label for g in found] == ["student alone, MAX_ITER 40", "student alone, MAX_ITER 80", "imitation"]
    assert baseline(found[2], found) is found[0] and at_equal_time(found[2], found) is found[1]


def test_scores_of_a_running_training_do_not_count(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "a", 1, 40.0), write_run(tmp_path / "b", 2, 30.0, finished=False))
    assert group.scores("bbox/AP") == {1: 40.0}
    assert [run.state for run in group.runs] == ["finished", "iteration 41 of 40"]
    assert group.runs[1].scores["bbox/AP"] == 30.0


def test_scores_without_a_number_do_not_count(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "a", 1, 40.0))
    assert group.scores("bbox/APl") == {}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"DATASETS": {"TEST": ["other"]}}, r"was scored on DATASETS.TEST \['other'\], .* on \['val'\]"),
        ({"DATASETS": {"CUSTOM": {"val": {"JSON": "b.json"}}}}, r"val.JSON is 'b.json', in .* it is 'val.json'"),
    ],
)
def test_runs_on_other_data_are_refused(tmp_path, changes, text):
    with pytest.raises(DataError, match=text):
        groups_of(write_run(tmp_path / "a", 1, 40.0), write_run(tmp_path / "b", 2, 40.0, changes))


def test_one_path_with_other_content_is_other_data(tmp_path):
    folders = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "val.json").write_text(name)
        changes = {"DATASETS": {"CUSTOM": {"val": {"JSON": str(tmp_path / name / "val.json")}}}}
        folders.append(write_run(tmp_path / name / "run", 1, 40.0, changes))
    with pytest.raises(DataError, match="val.JSON is"):
        groups_of(*folders)
    (tmp_path / "b" / "val.json").write_text("a")
    with pytest.raises(DataError, match="one config and one seed"):
        groups_of(*folders)


def test_runs_of_other_classes_are_refused(tmp_path):
    first, second = write_run(tmp_path / "a", 1, 40.0), write_run(tmp_path / "b", 2, 40.0)
    path = tmp_path / "b" / "results.json"
    path.write_text(path.read_text().replace("AP-cell", "AP-nut"))
    with pytest.raises(DataError, match="have other classes: only one of them has 'cell'"):
        groups_of(first, second)


def test_two_runs_of_one_config_and_seed_are_refused(tmp_path):
    with pytest.raises(DataError, match="one config and one seed, 1: leave one out"):
        groups_of(write_run(tmp_path / "a", 1, 40.0), write_run(tmp_path / "b", 1, 40.0))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(DataError, match="is not the folder of a run: it has no config.yaml"):
        read_run(str(tmp_path))
    with pytest.raises(DataError, match="there is no such folder"):
        read_run(str(tmp_path / "absent"))
    (tmp_path / "config.yaml").write_text("SEED: 1\n")
    with pytest.raises(DataError, match="is not the config of a run: KD.LOSSES is None, expected a group of keys"):
        read_run(str(tmp_path))


def test_damaged_scores_are_named(tmp_path):
    folder = write_run(tmp_path / "a", 1, 40.0)
    (tmp_path / "a" / "results.json").write_text('{"bbox/AP": ')
    with pytest.raises(DataError, match="results.json is damaged, expected numbers by name"):
        read_run(folder)


def test_relative_paths_below_the_data_root_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folders = []
    for name in ("mine", "yours"):
        (tmp_path / name / "valid").mkdir(parents=True)
        (tmp_path / name / "valid" / "_annotations.coco.json").write_text(name)
        changes = {"DATASETS": {"CUSTOM": {"val": {"JSON": f"{name}/valid/_annotations.coco.json"}}}}
        folders.append(write_run(tmp_path / f"run_{name}", 1, 40.0, changes))
    with pytest.raises(DataError, match="val.JSON is 'yours/valid/_annotations.coco.json'"):
        groups_of(*folders)


def test_folders_of_one_name_with_other_files_are_other_data(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    folders = []
    for name, kind in (("pets", "cat"), ("cars", "van")):
        (tmp_path / name / "val" / kind).mkdir(parents=True)
        changes = {"DATASETS": {"CUSTOM": {"val": {"JSON": f"{name}/val"}}}}
        folders.append(write_run(tmp_path / f"run_{name}", len(folders), 40.0, changes))
    with pytest.raises(DataError, match="val.JSON is 'cars/val'"):
        groups_of(*folders)
    (tmp_path / "cars" / "val" / "van").rename(tmp_path / "cars" / "val" / "cat")
    (group,) = groups_of(*folders)
    assert len(group.runs) == 2


def test_a_further_teacher_is_a_teacher(tmp_path):
    teacher = write_run(tmp_path / "t", 1, 40.0)
    changes = DISTILLED["KD"] | {"TEACHERS": [{"CONFIG_FILE": "", "WEIGHTS": f"{teacher}/model_final.pth"}]}
    found = groups_of(write_run(tmp_path / "d", 1, 41.0, {"KD": changes}), teacher)
    assert [g.role for g in found] == ["teacher", "distilled"]


def test_a_finished_run_that_goes_on_is_not_finished(tmp_path):
    folder = write_run(tmp_path / "a", 1, 40.0)
    for name in ("model_0000050.pth", "last_checkpoint"):
        (tmp_path / "a" / name).write_text("model_0000050.pth")
    (group,) = groups_of(folder)
    assert group.scores("bbox/AP") == {} and group.runs[0].state == "iteration 41 of 40"


def test_a_student_at_the_end_without_its_evaluation_has_no_scores(tmp_path):
    folder = write_run(tmp_path / "a", 1, 40.0)
    (tmp_path / "a" / "results.json").unlink()
    lines = [{"iteration": 19, "bbox/AP": 12.0}, {"iteration": 39, "total_loss": 1.0}]
    (tmp_path / "a" / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder)
    assert run.finished and run.scores == {}


@pytest.mark.parametrize(
    "model",
    [
        {"EMA": {"ENABLED": True}},
        {"RETINANET": {"SCORE_THRESH_TEST": 0.2}},
        {"RETINANET": {"FOCAL_LOSS_GAMMA": 1.0}},
        {"BACKBONE": {"FREEZE_AT": 2, "WEIGHTS": "a.pth"}},
        {"RPN": {"BATCH_SIZE_PER_IMAGE": 9}},
        {"LABEL_SMOOTHING": 0.1},
    ],
)
def test_a_student_that_learns_in_another_way_is_no_teacher(tmp_path, model):
    folders = write_run(tmp_path / "a", 1, 40.0), write_run(tmp_path / "d", 1, 41.0, DISTILLED | {"MODEL": model})
    alone, distilled = groups_of(*folders)
    assert alone.role == "student alone" and baseline(distilled, [alone, distilled]) is alone
