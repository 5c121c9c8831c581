"""With Detectron2: what a run leaves at its end, and how it goes on; what a start that fails leaves alone."""

from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch

from kd2.distill import ConfigError, Distiller
from kd2.engine.detectron2.trainer import Trainer
from kd2.runs.endings import Fault

from ...helpers.d2_tiny import different, train, weights

CONSTANT = ["SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "100"]


@pytest.fixture(scope="module")
def finished(retinanets, tmp_path_factory):
    """The folder of a run of 4 iterations without a checkpoint on the way."""
    folder = tmp_path_factory.mktemp("finished")
    train(retinanets, *CONSTANT, "OUTPUT_DIR", str(folder), "DATASETS.TEST", "['tiny']")
    return folder


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the folder to go on in."""
    for path in ("model_final.pth", "last_checkpoint", "run.lock", "config.yaml", "results.json", "student.yaml"):
        (tmp_path / path).write_bytes((finished / path).read_bytes())
    return tmp_path


def saved(folder: Path, name: str = "model_final.pth") -> dict:
    return torch.load(folder / name, weights_only=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def go_on(retinanets, again):
    def run(*options: str, resume: bool = True, **changes):
        test = ["OUTPUT_DIR", str(again), "DATASETS.TEST", "['tiny']"]
        return train(retinanets, *CONSTANT, *test, *options, resume=resume, **changes)

    return run


def test_the_end_is_kept_whatever_the_period(finished):
    assert [path.name for path in finished.glob("*.pth")] == ["model_final.pth"]
    assert saved(finished)["iteration"] == 3
    assert (finished / "last_checkpoint").read_text() == "model_final.pth"


def test_a_finished_run_goes_on_as_one_that_was_longer_from_the_first(retinanets, again, go_on):
    train(retinanets, *CONSTANT, "SOLVER.MAX_ITER", "6", "OUTPUT_DIR", str(again / "whole"))
    go_on("SOLVER.MAX_ITER", "6")
    assert different(weights(again), weights(again / "whole")) == []


def test_a_run_killed_before_its_final_checkpoint_gets_it(finished, again, go_on):
    (again / "model_final.pth").rename(again / "model_0000003.pth")
    (again / "last_checkpoint").write_text("model_0000003.pth")
    go_on()
    assert (again / "model_final.pth").read_bytes() == (finished / "model_final.pth").read_bytes()


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupPolyLR"])
def test_new_rates_reach_optimizer_and_schedule(again, go_on, name):
    """Poly with the power 0 is constant."""
    poly = ["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.POLY_LR_POWER", "0.0"]
    go_on("SOLVER.MAX_ITER", "6", "SOLVER.BASE_LR", "0.25", "SOLVER.WEIGHT_DECAY", "0.5", *poly)
    groups = saved(again)["optimizer"]["param_groups"]
    assert {group["lr"] for group in groups} == {0.25}
    assert max(group["weight_decay"] for group in groups) == 0.5


def test_a_new_length_of_a_poly_schedule_counts(retinanets, tmp_path):
    """Its length is among what Detectron2's scheduler saves."""
    poly = [*CONSTANT, "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.POLY_LR_POWER", "1.0"]
    train(retinanets, *poly, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path))
    train(
        retinanets,
        *poly,
        "SOLVER.MAX_ITER",
        "4",
        "OUTPUT_DIR",
        str(tmp_path),
        "SOLVER.CHECKPOINT_PERIOD",
        "3",
        resume=True,
    )
    assert saved(tmp_path, "model_0000002.pth")["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001 / 4)


def test_rates_that_group_the_parameters_otherwise_are_refused(again, go_on):
    """The weight decay of norms and weights becomes one: Detectron2 makes one group of two."""
    with pytest.raises(
        ConfigError, match="^--resume: the weight decays and SOLVER.BIAS_LR_FACTOR group the parameters"
    ):
        go_on("SOLVER.MAX_ITER", "6", "SOLVER.WEIGHT_DECAY", "0.0")


def test_a_refused_resume_changes_nothing(again, go_on):
    before = content(again)
    with pytest.raises(ConfigError, match="^--resume: SOLVER.OPTIMIZER was 'SGD', is 'AdamW'; a run keeps"):
        go_on("SOLVER.MAX_ITER", "6", "SOLVER.OPTIMIZER", "AdamW")
    assert content(again) == before


@pytest.mark.parametrize(
    "options", [["KD.TEACHER.WEIGHTS", "/gone.pth"], ["SOLVER.OPTIMIZER", "Sgdd"], ["DATASETS.TRAIN", "('gone',)"]]
)
def test_a_start_that_fails_leaves_the_former_run_as_it_was(again, go_on, options):
    before = content(again)
    with pytest.raises(ConfigError):
        go_on(*options, resume=False, overwrite=True)
    assert content(again) == before


def test_a_former_run_is_not_written_over_unasked(again, go_on):
    before = content(again)
    with pytest.raises(ConfigError, match="holds a run .*: --resume goes on with it, --overwrite removes it"):
        go_on(resume=False)
    assert content(again) == before


def test_an_evaluation_leaves_the_files_of_the_run_alone(again, go_on):
    before = content(again)
    assert go_on(eval_only=True)
    assert {name: x for name, x in content(again).items() if not name.startswith("inference/")} == before


def test_a_fault_is_one_line_and_a_file_in_the_folder(retinanets, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr(Distiller, "forward", broken)
    log = tmp_path / "error.log"
    with pytest.raises(Fault, match=f"^KeyError: 'x'; this is a fault, its traceback is in {log}$"):
        train(retinanets, "OUTPUT_DIR", str(tmp_path))
    assert log.read_text().endswith("KeyError: 'x'\n")


@pytest.fixture
def scored(retinanets, tmp_path, monkeypatch):
    """Trains a detector whose evaluations, every second iteration, give scores that were written down before."""

    def run(values: list[float], *options: str, **changes):
        left = iter(values)
        monkeypatch.setattr(Trainer, "test", classmethod(lambda *_: {"bbox": {"AP": next(left)}}))
        test = ["DATASETS.TEST", "['tiny']", "TEST.EVAL_PERIOD", "2", "TEST.BEST", "bbox/AP", "SOLVER.MAX_ITER", "6"]
        train(retinanets, *CONSTANT, *test, "OUTPUT_DIR", str(tmp_path), *options, **changes)
        best = saved(tmp_path, "model_best.pth")
        assert best["kd2"]["best"]["metric"] == "bbox/AP"
        return best["iteration"] + 1, best["kd2"]["best"]["value"]

    return run


def test_the_best_student_on_the_way_is_kept(scored, tmp_path):
    assert scored([1.0, 30.0, 20.0]) == (4, 30.0)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_the_student_at_the_end_may_be_the_best(scored, tmp_path):
    assert scored([1.0, float("nan"), 40.0]) == (6, 40.0)
    assert different(weights(tmp_path, "model_best.pth"), weights(tmp_path)) == []


def test_a_resumed_run_knows_the_best_so_far(scored):
    scored([1.0, 30.0], "SOLVER.MAX_ITER", "4")
    assert scored([29.0], resume=True) == (4, 30.0)


def test_an_unknown_metric_is_refused_by_the_first_evaluation_with_the_choices(scored, tmp_path):
    with pytest.raises(ConfigError, match="^TEST.BEST is 'bbox/AR', which no evaluation gives; did you mean bbox/AP"):
        scored([1.0], "TEST.BEST", "bbox/AR")
    assert not (tmp_path / "model_final.pth").exists()


def test_the_newest_checkpoints_are_kept(retinanets, tmp_path):
    options = ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.KEEP_CHECKPOINTS", "2"]
    train(retinanets, "OUTPUT_DIR", str(tmp_path), *options)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000002.pth", "model_0000003.pth", "model_final.pth"]
