"""A run that is killed or interrupted in the middle yields a student."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import lightning

from ...helpers import lightning_runs as runs
from ...helpers.launch import killed


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    """The config of a killed run, the path of its newest checkpoint, and the steps that it had done by then."""
    folder = tmp_path_factory.mktemp("killed")
    config = task.write_config(folder)
    steps = killed(config, folder / "out")
    return config, folder / "out" / f"model_{steps:07d}.pth", steps


def test_the_newest_checkpoint_is_evaluated(run):
    config, newest, _ = run
    scores = runs.train(config, "MODEL.WEIGHTS", str(newest), eval_only=True)
    assert {name.split("/")[0] for name in scores} < {"bbox", "sem_seg", "cls"}


def test_resume_finds_it_for_evaluation(run):
    config, newest, _ = run
    named = runs.train(config, "MODEL.WEIGHTS", str(newest), eval_only=True)
    assert runs.train(config, eval_only=True, resume=True) == pytest.approx(named, rel=0, abs=0, nan_ok=True)


def test_it_serves_as_a_teacher(run, task, tmp_path):
    config, newest, steps = run
    teacher = {"CONFIG_FILE": config, "WEIGHTS": str(newest)}
    student = runs.distiller(task.write_config(tmp_path, {"KD": {"TEACHER": teacher}}))
    state, expected = student.teacher.model.state_dict(), runs.checkpoint(newest.parent, steps)["model"]
    assert runs.same(state, {name: expected[name] for name in state}) == []  # parts that no tap needs are freed


def test_it_initializes_another_student(run, task, tmp_path):
    _, newest, steps = run
    student = runs.distiller(task.write_config(tmp_path, {"MODEL": {"WEIGHTS": str(newest)}})).student
    assert runs.same(student.state_dict(), runs.checkpoint(newest.parent, steps)["model"]) == []


def test_the_plain_network_takes_it(run, task):
    _, newest, steps = run
    content = runs.checkpoint(newest.parent, steps)
    assert content["iteration"] == steps - 1
    task.plain().load_state_dict(content["model"], strict=True)


class Interrupt(lightning.Callback):
    """Ctrl-C behind the third step."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_its_newest_checkpoint(task, tmp_path):
    config = task.write_config(tmp_path)
    with pytest.raises(SystemExit):
        runs.train(config, "SOLVER.MAX_ITER", "6", callbacks=(Interrupt(),))
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000002.pth"
    assert runs.train(config, eval_only=True, resume=True)
