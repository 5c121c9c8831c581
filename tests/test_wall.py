"""The wall: which room of kd2 may import which, and where a framework may be named."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FRAMEWORKS = ("detectron2", "torchvision", "timm", "lightning", "pytorch_lightning")

# What a room may import, from the lowest to the highest.
BELOW: dict[str, set[str]] = {}
BELOW["distill"] = set()
BELOW["ops"] = BELOW["networks"] = BELOW["data"] = BELOW["zoo"] = {"distill"}
BELOW["losses"] = {"distill", "ops", "networks"}
BELOW["config"] = {"distill", "data", "losses", "zoo"}
BELOW["runs"] = {"distill", "config"}
PLAIN = tuple(BELOW)
BELOW["engine"] = set(PLAIN)
BELOW["report"] = {*PLAIN, "engine"}
BELOW["deploy"] = {*PLAIN, "engine", "report"}
# The files at the top: the front door, and the commands.
BELOW["__init__"], BELOW["cli_arguments"] = {*PLAIN, "engine", "deploy"}, {"distill"}
BELOW["cli"] = {*PLAIN, "engine", "report", "cli_arguments"}
BELOW["cli_report"] = {*PLAIN, "engine", "report", "cli", "cli_arguments"}
BELOW["cli_deploy"] = {*PLAIN, "engine", "deploy", "cli", "cli_arguments"}

# Only these may name a framework.
OPEN = ("engine", "report", "deploy")
TIMM_WRAPPER = "kd2/engine/timm_backbone.py"

# A None in sys.modules makes the import of that name, and of everything below it, fail.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({FRAMEWORKS}))\n"

WALK = """
import importlib, pkgutil, sys, traceback
for room in sys.argv[1:]:
    try:
        for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
            importlib.import_module(module.name)
            print(module.name)
    except Exception:
        print(room, traceback.format_exc())
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BLOCK + program, *arguments], capture_output=True, text=True, cwd=ROOT)


@cache
def imports() -> dict[str, set[str]]:
    """File of kd2 -> the dotted names that it imports anywhere, inside functions too."""
    files = sorted((ROOT / "kd2").rglob("*.py"))
    return {str(path.relative_to(ROOT)): set(_imported(ast.parse(path.read_text()))) for path in files}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_that_import(*packages: str) -> dict[str, set[str]]:
    """File -> the names among its imports that lie in one of the packages."""
    found = {file: {name for name in names if name.split(".")[0] in packages} for file, names in imports().items()}
    return {file: names for file, names in found.items() if names}


def room_of(file: str) -> str:
    return Path(file).parts[1].removesuffix(".py")


def test_every_module_of_the_plain_rooms_imports_without_any_framework():
    done = run(WALK, *(f"kd2.{room}" for room in PLAIN))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout, done.stdout
    assert {room_of(module.replace(".", "/")) for module in done.stdout.split()} == set(PLAIN)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_block_stops_an_import(framework):
    assert f"import of {framework} halted" in run(f"import {framework}").stderr


def test_kd2_and_its_commands_import_without_any_framework():
    done = run("import kd2, kd2.cli, kd2.cli_deploy, kd2.cli_report, kd2.engine; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert "torch._dynamo" not in done.stdout.split(), "importing the compiler takes seconds"


def test_only_the_engine_and_the_rooms_beside_it_name_a_framework():
    assert {f: names for f, names in files_that_import(*FRAMEWORKS).items() if room_of(f) not in OPEN} == {}


def test_every_file_lies_in_a_room_that_the_wall_knows():
    assert {room_of(file) for file in imports()} <= set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_down(room):
    allowed = BELOW[room] | {room, "__version__"}
    rising = {
        file: sorted(name for name in names if name.split(".")[1] not in allowed)
        for file, names in files_that_import("kd2").items()
        if room_of(file) == room
    }
    assert {file: names for file, names in rising.items() if names} == {}


def test_the_package_imports_nothing_of_the_laboratory():
    assert files_that_import("examples", "benchmarks", "tests", "tools") == {}


def test_one_file_wraps_timm_backbones_for_detection_and_segmentation():
    """The roads of classification train timm's own models; Detectron2 and torchvision take the one wrapper."""
    classification = "kd2/engine/lightning/classification/"
    wrappers = {
        file
        for file, names in files_that_import("timm").items()
        if not file.startswith(classification) and any(name.split(".")[1:2] in (["create_model"], []) for name in names)
    }
    assert wrappers == {TIMM_WRAPPER}
