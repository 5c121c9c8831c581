"""The wall: core, losses, data and networks know no framework; each is imported where the frameworks are blocked."""

import subprocess
import sys

import pytest

BLOCKED = ("detectron2", "torchvision", "timm", "lightning", "pytorch_lightning")

# A None in sys.modules makes the import of that name, and of everything below it, fail.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"

WALK = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    importlib.import_module(module.name)
    print(module.name)
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BLOCK + program, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("room", ["core", "losses", "data", "networks"])
def test_every_module_of_a_room_imports_without_any_framework(room):
    done = run(WALK, f"kd2.{room}")
    assert done.returncode == 0, done.stderr
    assert f"kd2.{room}." in done.stdout


@pytest.mark.parametrize("framework", BLOCKED)
def test_the_block_stops_an_import(framework):
    assert f"import of {framework} halted" in run(f"import {framework}").stderr
