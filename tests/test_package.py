"""The metadata of the package agree with the files that they speak of."""

import ast
import re
from pathlib import Path

from packaging.version import Version

import kd2
from kd2.runs.packages import EXTRAS

ROOT = Path(__file__).parents[1]
# Needed beside Detectron2, or by exported files, only: the suite without them says nothing about them.
OPTIONAL = {"opencv-python", "cityscapesscripts", "onnx", "onnxruntime", "openvino"}


def bounds() -> dict[str, Version]:
    """Package -> lower bound, of all requirements in setup.py that have no upper one."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)", text) for text in texts]
    return {match[1]: Version(match[2]) for match in found if match}


def pinned() -> dict[str, Version]:
    lines = (ROOT / "tests" / "lower_bounds.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name: Version(version) for name, version in pairs}


def test_every_lower_bound_is_a_version_that_the_suite_runs_with():
    assert {name: bound for name, bound in bounds().items() if name not in OPTIONAL} == pinned()


def test_every_package_that_is_named_when_missing_is_in_the_extra_that_is_named():
    tree = ast.parse((ROOT / "setup.py").read_text())
    setup = {"__file__": str(ROOT / "setup.py")}
    body = [node for node in tree.body if not isinstance(node, ast.Expr)]
    (call,) = [node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    exec(compile(ast.Module(body, []), "setup.py", "exec"), setup)
    extras = next(word.value for word in call.keywords if word.arg == "extras_require")
    brought = eval(compile(ast.Expression(extras), "setup.py", "eval"), setup)
    distributions = {"cv2": "opencv-python"}
    for extra, packages in EXTRAS.items():
        names = {re.split("[><=]", text)[0] for text in brought[extra]}
        assert {distributions.get(package, package) for package in packages} <= names


def test_the_changelog_begins_with_the_version_of_the_package():
    versions = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == kd2.__version__


def test_every_folder_with_modules_is_a_package_that_setup_finds():
    folders = {path.parent for path in (ROOT / "kd2").rglob("*.py")}
    assert sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()) == []
