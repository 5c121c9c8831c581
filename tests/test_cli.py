"""What the commands share: arguments, the one line of a user's error, tables."""

import sys
from argparse import Namespace

import pytest
import torch
from PIL import UnidentifiedImageError

from kd2 import cli, engine
from kd2.distill import ConfigError, DataError


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


def test_a_fault_of_kd2_keeps_its_traceback():
    with pytest.raises(KeyError):
        cli.guarded(failing(KeyError("x")))


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
        eval_only=False,
        imports=["mine", "more"],
        allow_pickle=False,
        config_file=file,
        opts=options,
    )
    assert "| AP     | 0.5   |" in capsys.readouterr().out


def test_two_commands_do_not_share_their_imports(calls, monkeypatch):
    for words in (["--import", "mine"], []):
        monkeypatch.setattr(sys, "argv", ["kd2-train", "--config-file", "c.yaml", *words])
        cli.train()
    assert [call for call in calls if call[0] == "import"] == [("import", "mine"), ("import",)]
