"""What a run leaves at its end and how it goes on from there; what failed starts and evaluations leave alone."""

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import yaml

from kd2.distill import ConfigError, Distiller
from kd2.engine.lightning.detection.evaluation import CocoEvaluator
from kd2.runs.endings import Fault

from ...helpers import lightning_runs as runs
from ...helpers import tiny_detection

SELDOM = ["SOLVER.CHECKPOINT_PERIOD", "100"]


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """The config of a run of 4 iterations without a checkpoint on the way, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    config = task.write_config(folder)
    runs.train(config, *SELDOM, "SOLVER.MAX_ITER", "4")
    return config, folder / "out"


@pytest.fixture
def again(finished, tmp_path):
    """The config, and a copy of the folder to go on in."""
    config, folder = finished
    for path in ("model_final.pth", "last_checkpoint", "run.lock", "config.yaml", "results.json"):
        (tmp_path / path).write_bytes((folder / path).read_bytes())
    return config, tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def go_on(again, *options: str):
    config, folder = again
    return runs.train(config, *SELDOM, "OUTPUT_DIR", str(folder), *options, resume=True)


def test_the_end_is_kept_whatever_the_period(finished):
    _, folder = finished
    assert [path.name for path in folder.glob("*.pth")] == ["model_final.pth"]
    assert runs.checkpoint(folder)["iteration"] == 3
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_a_finished_run_goes_on_as_one_that_was_longer_from_the_first(finished, again, tmp_path):
    config, _ = finished
    runs.train(config, *SELDOM, "SOLVER.MAX_ITER", "6", "OUTPUT_DIR", str(tmp_path / "whole"))
    go_on(again, "SOLVER.MAX_ITER", "6")
    assert runs.same(runs.weights(tmp_path), runs.weights(tmp_path / "whole")) == []


def test_a_run_killed_before_its_final_checkpoint_gets_it(finished, again):
    """All of its content: nothing is left to train."""
    _, folder = again
    (folder / "model_final.pth").rename(folder / "model_0000004.pth")
    (folder / "last_checkpoint").write_text("model_0000004.pth")
    go_on(again, "SOLVER.MAX_ITER", "4")
    assert runs.different(runs.checkpoint(folder), runs.checkpoint(finished[1])) == []


def test_new_rates_reach_optimizer_and_schedule(again):
    go_on(again, "SOLVER.MAX_ITER", "6", "SOLVER.BASE_LR", "0.25", "SOLVER.WEIGHT_DECAY", "0.5")
    groups = runs.checkpoint(again[1])["optimizer"]["param_groups"]
    assert {group["lr"] for group in groups} == {0.25}
    assert groups[0]["weight_decay"] == 0.5


def test_a_new_schedule_counts_from_the_iteration_on(again):
    go_on(again, "SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "[5]", "SOLVER.GAMMA", "0.5")
    saved = runs.checkpoint(again[1])
    base = saved["scheduler"]["base_lrs"][0]
    assert saved["optimizer"]["param_groups"][0]["lr"] == base * 0.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["SOLVER.OPTIMIZER", "AdamW"], "SOLVER.OPTIMIZER was 'SGD', is 'AdamW'"),
        (["SOLVER.IMS_PER_BATCH", "3"], "SOLVER.IMS_PER_BATCH was ., is 3"),
        (["SOLVER.MAX_ITER", "3"], "the checkpoint has 4 iterations behind it"),
    ],
)
def test_a_refused_resume_changes_nothing(again, options, text):
    before = content(again[1])
    with pytest.raises(ConfigError, match=text):
        go_on(again, "SOLVER.MAX_ITER", "6", *options)
    assert content(again[1]) == before


@pytest.mark.parametrize(
    "options", [["KD.TEACHER.WEIGHTS", "/gone.pth"], ["SOLVER.OPTIMIZER", "Sgdd"], ["DATASETS.TRAIN", "['gone']"]]
)
def test_a_start_that_fails_leaves_the_former_run_as_it_was(again, options):
    config, folder = again
    before = content(folder)
    with pytest.raises(ConfigError):
        runs.train(config, "OUTPUT_DIR", str(folder), *options, overwrite=True)
    assert content(folder) == before


def test_a_former_run_is_not_written_over_unasked(again):
    config, folder = again
    before = content(folder)
    with pytest.raises(ConfigError, match="holds a run .*: --resume goes on with it, --overwrite removes it"):
        runs.train(config, "OUTPUT_DIR", str(folder))
    assert content(folder) == before


def test_an_evaluation_changes_nothing_in_the_folder_of_a_run(again):
    config, folder = again
    before = content(folder)
    assert runs.train(config, "OUTPUT_DIR", str(folder), resume=True, eval_only=True)
    assert content(folder) == before


def test_a_fault_is_one_line_and_a_file_in_the_folder(task, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    config = task.write_config(tmp_path)
    monkeypatch.setattr(Distiller, "forward", broken)
    log = tmp_path / "out" / "error.log"
    with pytest.raises(Fault, match=f"^KeyError: 'x'; this is a fault, its traceback is in {log}$"):
        runs.train(config)
    assert log.read_text().endswith("KeyError: 'x'\n")


@pytest.fixture
def scored(tmp_path, data, monkeypatch):
    """Trains a detector whose evaluations, every second iteration, give scores that were written down before."""

    def train(values: list[float], *options: str, **changes):
        left = iter(values)
        monkeypatch.setattr(CocoEvaluator, "evaluate", lambda _: {"bbox/AP": next(left), "bbox/AP50": 0.0})
        test = {"DATASETS": {"TEST": ["tiny"]}, "TEST": {"EVAL_PERIOD": 2, "BEST": "bbox/AP"}}
        config = tiny_detection.write_config(tmp_path, data, test)
        runs.train(config, *options, **changes)
        return tmp_path / "out"

    return train


def best(folder: Path) -> tuple[int, float]:
    """Iterations and value of model_best.pth."""
    saved = runs.torch.load(folder / "model_best.pth", weights_only=True)
    assert saved["kd2"]["best"]["metric"] == "bbox/AP"
    return saved["iteration"] + 1, saved["kd2"]["best"]["value"]


def test_the_best_student_on_the_way_is_kept(scored):
    """Evaluated behind 2, 4, 6 and, at the end, once more."""
    folder = scored([1.0, 30.0, 20.0, 20.0])
    assert best(folder) == (4, 30.0)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_the_student_at_the_end_may_be_the_best(scored):
    folder = scored([1.0, float("nan"), 2.0, 40.0])
    assert best(folder) == (6, 40.0)
    model = runs.torch.load(folder / "model_best.pth", weights_only=True)["model"]
    assert runs.same(model, runs.checkpoint(folder)["model"]) == []


def test_a_resumed_run_knows_the_best_so_far(scored):
    scored([1.0, 30.0, 20.0], "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "[9]")
    folder = scored([29.0, 29.5], "SOLVER.MAX_ITER", "6", "SOLVER.STEPS", "[9]", resume=True)
    assert best(folder) == (4, 30.0)


def test_an_unknown_metric_is_refused_by_the_first_evaluation_with_the_choices(scored, tmp_path):
    with pytest.raises(ConfigError, match="^TEST.BEST is 'bbox/AR', which no evaluation gives; did you mean bbox/AP"):
        scored([1.0], "TEST.BEST", "bbox/AR")
    assert not (tmp_path / "out" / "model_final.pth").exists()


def test_an_unknown_metric_without_evaluations_on_the_way_leaves_the_trained_student(scored, tmp_path):
    with pytest.raises(ConfigError, match="^TEST.BEST is 'bbox/AR', which no evaluation gave; did you mean bbox/AP"):
        scored([1.0], "TEST.BEST", "bbox/AR", "TEST.EVAL_PERIOD", "0")
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_nothing_can_be_the_best_without_a_test_set(tmp_path, data):
    config = tiny_detection.write_config(tmp_path, data, {"TEST": {"BEST": "bbox/AP"}})
    with pytest.raises(ConfigError, match="^TEST.BEST is 'bbox/AP', but DATASETS.TEST is empty: nothing is evaluated$"):
        runs.train(config)


def test_the_newest_checkpoints_are_kept(task, tmp_path):
    config = task.write_config(tmp_path, {"SOLVER": {"CHECKPOINT_PERIOD": 1, "KEEP_CHECKPOINTS": 2}})
    runs.train(config, "SOLVER.MAX_ITER", "4")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000004.pth", "model_final.pth"]


def test_the_config_of_a_run_is_that_of_its_last_start(again):
    go_on(again, "SOLVER.MAX_ITER", "5", "SOLVER.BASE_LR", "0.25")
    kept = yaml.safe_load((again[1] / "config.yaml").read_text())
    assert (kept["SOLVER"]["BASE_LR"], kept["SOLVER"]["MAX_ITER"]) == (0.25, 5)
