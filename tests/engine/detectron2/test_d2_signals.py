"""A run that a signal ends where it writes a file: exit code, and the weights of the run that was not ended."""

import os
import re
import signal

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

from detectron2.engine import defaults

from ...helpers.d2_tiny import different, weights
from ...helpers.endings import command, gone_on, signal_at, signal_in_step, workers_lost_in_step

# config.yaml, two checkpoints and the final one with their tags, student.yaml, results.json: before and behind each.
POINTS = range(18)
SIGNALS = [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.fixture(scope="module")
def whole(retinanets, tmp_path_factory):
    """The config of a run of 4 iterations with checkpoints at 2 and 4, and the weights at its end."""
    folder = tmp_path_factory.mktemp("whole")
    words = ["OUTPUT_DIR", str(folder), "TEST.EVAL_PERIOD", "2", "DATASETS.TEST", "['tiny']"]
    assert command("--config-file", retinanets, *words, log=folder / "log") == 0, (folder / "log").read_text()
    return retinanets, weights(folder)


def ended(whole, tmp_path, ending) -> tuple[int, list[str], str]:
    """Exit code of the ended run, weights that differ at the end of the one that goes on, what the first one said."""
    (config, expected), output = whole, tmp_path / "out"
    words = ["--config-file", config, "OUTPUT_DIR", str(output)]
    code = command(*words, log=tmp_path / "log", prepare=ending)
    assert gone_on(*words, output=output, log=tmp_path / "more") == 0, (tmp_path / "more").read_text()
    assert not list(output.glob("*.partial"))
    return code, different(weights(output), expected), (tmp_path / "log").read_text()


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_signal_while_a_checkpoint_is_written(whole, tmp_path, signum, code):
    assert ended(whole, tmp_path, signal_at(signum, 2 * 3))[:2] == (code, [])


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_signal_at_every_file(whole, tmp_path, signum, code, point):
    assert ended(whole, tmp_path, signal_at(signum, point))[:2] == (code, [])


def test_a_run_interrupted_in_a_step_saves_it_and_says_how_to_go_on(whole, tmp_path):
    code, differ, said = ended(whole, tmp_path, signal_in_step(signal.SIGTERM, 2))
    saved = tmp_path / "out" / "model_0000002.pth"
    line = f"interrupted by SIGTERM: the student is in {saved}; to go on: "
    assert (code, differ, saved.exists()) == (143, [], True)
    assert line in said and " --resume --config-file " in said and "Traceback" not in said


def test_a_lost_loader_worker_is_one_line_and_exit_code_1(whole, tmp_path):
    words = ["--config-file", whole[0], "OUTPUT_DIR", str(tmp_path / "out"), "DATALOADER.NUM_WORKERS", "1"]
    length = ["SOLVER.MAX_ITER", "1000", "SOLVER.CHECKPOINT_PERIOD", "2"]
    code = command(*words, *length, log=tmp_path / "log", prepare=workers_lost_in_step(3))
    said = (tmp_path / "log").read_text()
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (1, 1) and "Traceback" not in said
    assert re.match(r"error: a (worker|process) .* was lost.*; the last checkpoint is kept$", lines[0]), lines


def test_a_signal_in_an_evaluation_on_the_way_ends_it_at_once(whole, tmp_path):
    """The run does not go on to the next step, so its last checkpoint is the one before."""
    evaluate = defaults.inference_on_dataset

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    def patch():
        defaults.inference_on_dataset = signalled

    words = ["--config-file", whole[0], "OUTPUT_DIR", str(tmp_path / "out"), "TEST.EVAL_PERIOD", "3"]
    words += ["DATASETS.TEST", "['tiny']"]
    assert command(*words, "SOLVER.MAX_ITER", "9", log=tmp_path / "log", prepare=patch) == 143
    assert f"the student is in {tmp_path}/out/model_0000001.pth; " in (tmp_path / "log").read_text()
