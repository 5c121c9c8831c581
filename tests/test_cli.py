"""What the commands share: arguments, the one line of a user's error, tables."""

import io
import os
import re
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import UnidentifiedImageError

from kd2 import cli, engine
from kd2.distill import ConfigError, DataError
from kd2.runs.endings import Interrupted


def failing(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("error", [ConfigError("KEY is 3"), DataError("KEY is 3"), OSError("KEY is 3")])
def test_a_users_error_is_one_line_and_exit_code_1(error, capsys):
    assert cli.guarded(failing(error)) == 1
    assert capsys.readouterr().err == "error: KEY is 3\n"


class Broken(torch.utils.data.Dataset):
    """Its one image raises an error."""

    def __init__(self, error: Exception):
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        raise self.error


@pytest.mark.parametrize("error", [DataError("a.png: not an image"), OSError("KEY is 3"), UnidentifiedImageError("x")])
def test_an_error_of_a_data_loaders_worker_is_its_last_line(error, capsys):
    loader = torch.utils.data.DataLoader(Broken(error), num_workers=1)
    assert cli.guarded(lambda: len(list(loader))) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_fault_is_one_line_that_names_the_file_with_its_traceback(capsys):
    assert cli.guarded(failing(KeyError("x"))) == 1
    line = capsys.readouterr().err
    assert re.fullmatch(r"error: KeyError: 'x'; this is a fault, its traceback is in (/\S+\.log)\n", line), line
    assert "in failing\n" not in line and "raise error\nKeyError" in Path(line.split()[-1]).read_text()


def test_a_missing_package_is_one_line_that_names_its_extra(capsys):
    assert cli.guarded(failing(ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard"))) == 1
    assert capsys.readouterr().err == "error: the package 'tensorboard' is missing: pip install 'kd2[torchvision]'\n"


@pytest.mark.parametrize("words", [[], ["--config-file"], ["--config-file", "c.yaml", "--num-gpus", "two"]])
def test_wrong_arguments_are_one_line_and_exit_code_1(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kd2-train", *words])
    assert cli.train() == 1
    assert re.fullmatch(r"error: .*(--config-file|--num-gpus).*; see kd2-train --help\n", capsys.readouterr().err)


def test_resume_and_overwrite_exclude_each_other(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kd2-train", "--resume", "--overwrite", "--config-file", "c.yaml"])
    assert cli.train() == 1
    assert "--overwrite: not allowed with argument --resume" in capsys.readouterr().err


@pytest.mark.parametrize(("signum", "name"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_is_one_line_and_exit_code_128_and_its_number(signum, name, capsys):
    assert cli.guarded(lambda: os.kill(os.getpid(), signum) or time.sleep(5)) == 128 + signum
    assert capsys.readouterr().err == f"interrupted by {name}: no checkpoint was saved\n"


def test_a_signal_leaves_a_forked_worker_alone(capsys):
    """Ctrl-C reaches every process of a terminal; a loader's workers are ended by their parent."""

    def main() -> int:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert cli.guarded(main) == 7


def test_an_interrupted_training_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*_):
        raise Interrupted(signal.SIGTERM, "out/model_0000004.pth")

    monkeypatch.setattr(engine, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["kd2-train", "--overwrite", "--config-file", "my config.yaml", "SEED", "1"])
    assert cli.train() == 143
    student, command = (
        "the student is in out/model_0000004.pth",
        "kd2-train --resume --config-file 'my config.yaml' SEED 1",
    )
    assert capsys.readouterr().err == f"interrupted by SIGTERM: {student}; to go on: {command}\n"


def test_a_table_rounds_to_four_digits():
    assert cli.table(["a", "b"], [["x", 1.23456]]) == "| a | b     |\n|---|-------|\n| x | 1.235 |"


@pytest.fixture
def calls(monkeypatch):
    """What ``kd2-train`` hands to the engine and to the registry of losses."""
    seen = []
    monkeypatch.setattr(cli, "import_losses", lambda modules: seen.append(("import", *modules)))
    monkeypatch.setattr(engine, "run", lambda file, options, args: seen.append((file, options, args)) or {"AP": 0.5})
    return seen


def test_train_hands_every_argument_to_the_engine(calls, monkeypatch, capsys):
    words = ["--num-gpus", "2", "--resume", "--import", "mine", "--import", "more"]
    monkeypatch.setattr(sys, "argv", ["kd2-train", *words, "--config-file", "c.yaml", "SOLVER.MAX_ITER", "5"])
    assert cli.train() == 0
    imported, (file, options, args) = calls
    assert imported == ("import", "mine", "more")
    assert (file, options) == ("c.yaml", ["SOLVER.MAX_ITER", "5"])
    assert args == Namespace(
        num_gpus=2,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
        resume=True,
        overwrite=False,
        eval_only=False,
        imports=["mine", "more"],
        allow_pickle=False,
        allow_code=False,
        config_file=file,
        opts=options,
    )
    assert "| AP     | 0.5   |" in capsys.readouterr().out


def test_two_commands_do_not_share_their_imports(calls, monkeypatch):
    for words in (["--import", "mine"], []):
        monkeypatch.setattr(sys, "argv", ["kd2-train", "--config-file", "c.yaml", *words])
        cli.train()
    assert [call for call in calls if call[0] == "import"] == [("import", "mine"), ("import",)]


def test_fewer_gpus_than_none_are_refused():
    with pytest.raises(ConfigError, match="--num-gpus is -1, expected 0"):
        cli.run_train(cli.train_parser().parse_args(["--num-gpus", "-1", "--config-file", "c.yaml"]))


def test_names_that_are_no_text_are_printed_nevertheless(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8", errors="strict"))
    assert cli.guarded(lambda: print(os.fsdecode(b"bad\xff.jpg")) or 0) == 0
    sys.stdout.flush()
    assert written.getvalue() == b"bad\\udcff.jpg\n"
