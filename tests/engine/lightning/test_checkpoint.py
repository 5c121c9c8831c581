"""The checkpoints of a run: one schema, whatever the task and whenever they are written."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import lightning
import torch
import yaml

from kd2 import __version__
from kd2.distill import ConfigError

from ...helpers import lightning_runs as runs
from ...helpers import tiny_classification as tiny
from ...helpers.tiny_tasks import CONSTANT

SCHEMA = {"model", "adapters", "optimizer", "scheduler", "iteration", "kd2", "trainer"}
RUN = {"version", "seed", "rng", "classes", "teacher", "config", "shares"}
AVERAGED = {
    "MODEL": {"EMA": {"ENABLED": True, "WARMUP": False, "DECAY": 0.5}},
    "TEST": {"PRECISE_BN": {"ENABLED": True, "NUM_ITER": 2}},
}


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """The config and folder of a run of four steps, with checkpoints after two and four."""
    folder = tmp_path_factory.mktemp("whole")
    config = task.write_config(folder, {"SOLVER": {"MAX_ITER": 4}})
    runs.train(config)
    return config, folder / "out"


def test_an_intermediate_checkpoint_has_the_entries_of_the_final_one(whole):
    for content in (runs.checkpoint(whole[1], 2), runs.checkpoint(whole[1])):
        assert (content.keys(), content["kd2"].keys()) == (SCHEMA, RUN)


def differences(a: dict, b: dict) -> list[str]:
    """What differs between two checkpoints, but for what Lightning notes of its loops."""
    noted = (".trainer.loops.", ".trainer.epoch")
    return [name for name in runs.different(a, b) if not name.startswith(noted)]


def test_the_checkpoint_of_the_last_step_is_the_final_one(whole):
    assert differences(runs.checkpoint(whole[1], 4), runs.checkpoint(whole[1])) == []


def test_the_iteration_is_the_last_one_that_was_done(whole):
    assert [runs.checkpoint(whole[1], step)["iteration"] for step in (2, 4, None)] == [1, 3, 3]


def test_a_checkpoint_tells_of_its_run(whole, task):
    entry = runs.checkpoint(whole[1], 2)["kd2"]
    teacher = {"config_file": str(task.teacher / "teacher.yaml")}
    teacher["weights"] = str(task.teacher / "out" / "model_final.pth")
    assert (entry["version"], entry["seed"], entry["classes"]) == (__version__, 7, {task.kind: task.classes})
    assert entry["teacher"] == teacher
    assert yaml.safe_load(entry["config"])["SOLVER"]["MAX_ITER"] == 4


def test_the_model_has_the_plain_networks_names(whole, task):
    task.plain().load_state_dict(runs.checkpoint(whole[1], 2)["model"], strict=True)


def resumed_longer(task, folder, changes: dict) -> list[str]:
    """What differs between a run of five steps and one of three that is resumed from its final checkpoint."""
    config = task.write_config(folder, changes)
    runs.train(config, "SOLVER.MAX_ITER", "5", "OUTPUT_DIR", str(folder / "whole"))
    runs.train(config, "SOLVER.MAX_ITER", "3")
    torch.manual_seed(12345)
    runs.train(config, "SOLVER.MAX_ITER", "5", resume=True)
    return differences(runs.checkpoint(folder / "whole"), runs.checkpoint(folder / "out"))


def test_a_final_checkpoint_is_resumed_bit_for_bit_in_a_longer_run(task, tmp_path):
    assert resumed_longer(task, tmp_path, {"SOLVER": {"CHECKPOINT_PERIOD": 100}}) == [".kd2.config"]  # OUTPUT_DIR


@pytest.mark.parametrize("changes", [{"MODEL": AVERAGED["MODEL"]}, {"TEST": AVERAGED["TEST"]}, AVERAGED])
def test_a_run_whose_student_is_an_average_is_resumed_bit_for_bit(classifier, tmp_path, changes):
    every = runs.merged(changes, {"SOLVER": {"CHECKPOINT_PERIOD": 100}})
    assert resumed_longer(classifier, tmp_path, every) == [".kd2.config"]


def test_a_share_goes_on_between_two_measurements(classifier, tmp_path):
    """Resumed in iteration 4, which is not measured as those before it were; 5 is."""
    share = {"KD": {"LOSSES": {"logits": {"SHARE": 0.5, "CALIBRATE_ITERS": 2}}}, "SOLVER": {"MAX_ITER": 7}}
    config = classifier.write_config(tmp_path, share)
    runs.train(config)
    runs.resumed(config, tmp_path / "out", 4, tmp_path / "resumed")
    found = runs.checkpoint(tmp_path / "resumed")
    assert found["kd2"]["shares"]["logits.seen"] == 5
    assert differences(runs.checkpoint(tmp_path / "out"), found) == [".kd2.config"]  # OUTPUT_DIR


@pytest.fixture(scope="module")
def classifier(pictures, class_teacher):
    from ...helpers import tiny_tasks

    return tiny_tasks.classification(pictures, class_teacher)


@pytest.fixture(scope="module")
def averaged(pictures, tmp_path_factory):
    """The folder of a run with a moving average and precise statistics."""
    folder = tmp_path_factory.mktemp("averaged")
    runs.train(tiny.write_config(folder, pictures, runs.merged(CONSTANT, AVERAGED)))
    return folder / "out"


@pytest.mark.parametrize("step", [2, None])
def test_the_model_is_the_average_and_the_raw_weights_lie_beside_it(averaged, step):
    content = runs.checkpoint(averaged, step)
    model, raw = content["model"], content["kd2"]["raw_model"]
    assert model.keys() == raw.keys() and not torch.equal(model["fc.weight"], raw["fc.weight"])


def test_precise_statistics_change_the_model_and_not_the_raw_weights(pictures, tmp_path):
    config = tiny.write_config(tmp_path, pictures, runs.merged(CONSTANT, {"TEST": AVERAGED["TEST"]}))
    runs.train(config)
    runs.train(config, "TEST.PRECISE_BN.ENABLED", "False", "OUTPUT_DIR", str(tmp_path / "plain"))
    content, plain = runs.checkpoint(tmp_path / "out"), runs.checkpoint(tmp_path / "plain")
    differ = runs.same(content["model"], plain["model"])
    assert differ and all("running" in name or "tracked" in name for name in differ)
    assert runs.same(content["kd2"]["raw_model"], plain["model"]) == []


def test_the_average_is_what_evaluation_scores(averaged, pictures, tmp_path):
    config = tiny.write_config(tmp_path, pictures, {"DATASETS": {"TEST": ["tiny_test"]}})
    torch.save(runs.checkpoint(averaged)["model"], tmp_path / "bare.pth")
    scores = [
        runs.train(config, "MODEL.WEIGHTS", str(path), eval_only=True)
        for path in (averaged / "model_final.pth", tmp_path / "bare.pth")
    ]
    assert scores[0] == scores[1]


def test_a_checkpoint_that_another_trainer_wrote_is_not_resumed(pictures, tmp_path):
    config = tiny.write_config(tmp_path, pictures)
    runs.train(config, "SOLVER.MAX_ITER", "1")
    content = runs.checkpoint(tmp_path / "out")
    torch.save(content | {"trainer": {}}, tmp_path / "out" / "model_final.pth")
    text = "^--resume: .*model_final.pth is not a checkpoint of a run that Lightning .*: another trainer wrote it$"
    with pytest.raises(ConfigError, match=text):
        runs.train(config, resume=True)


def test_a_bare_state_dict_is_not_resumed(pictures, tmp_path):
    config = tiny.write_config(tmp_path, pictures)
    runs.train(config, "SOLVER.MAX_ITER", "1")
    torch.save(runs.checkpoint(tmp_path / "out")["model"], tmp_path / "out" / "model_final.pth")
    text = "^--resume: .*model_final.pth is not a checkpoint of a run of kd2: it has no model, "
    with pytest.raises(ConfigError, match=text):
        runs.train(config, resume=True)


class Evaluations(lightning.Callback):
    """The steps behind which a run was evaluated."""

    def __init__(self):
        self.steps = []

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)


def test_a_resumed_run_is_evaluated_at_the_iterations_of_a_whole_one(pictures, tmp_path):
    config = tiny.write_config(tmp_path, pictures, {"DATASETS": {"TEST": ["tiny_test"]}, "TEST": {"EVAL_PERIOD": 2}})
    seen = Evaluations()
    runs.train(config, "SOLVER.MAX_ITER", "3")
    runs.train(config, "SOLVER.MAX_ITER", "8", resume=True, callbacks=(seen,))
    assert seen.steps == [4, 6, 8, 8]  # and once more at the end
