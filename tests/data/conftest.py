"""The scripts of datasets/."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "datasets"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPTS)
    return tmp_path


@pytest.fixture
def run(root, monkeypatch, capsys):
    """Run a script with arguments in the data root: (exit code, output, errors)."""

    def script(name: str, *arguments: object):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return script
