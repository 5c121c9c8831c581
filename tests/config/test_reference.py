"""docs/config.md is what the declarations say, and every declaration says something."""

import importlib.util
from pathlib import Path

import pytest

from kd2.config.keys import KEYS
from kd2.losses import loss_types
from kd2.losses.options import options_of
from kd2.losses.registry import LOSSES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "tools" / "config_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_that_of_the_declarations(tool):
    text = (ROOT / "docs" / "config.md").read_text()
    assert text == tool.reference(), "run python tools/config_reference.py > docs/config.md"


@pytest.mark.parametrize("framework", sorted(KEYS))
def test_every_key_has_a_sentence(tool, framework):
    said = {row[0].strip("`"): row[4] for row in tool.key_rows() if framework in row[3]}
    assert said.keys() == KEYS[framework].keys()
    assert not [name for name, meaning in said.items() if not meaning.endswith(".")]


@pytest.mark.parametrize("kind", loss_types())
def test_every_option_of_a_loss_has_a_meaning(tool, kind):
    rows = list(tool.option_rows(kind))
    assert [row[0] for row in rows] == [f"`{name.upper()}`" for name in options_of(LOSSES.get(kind).loss)]
    assert not [row[0] for row in rows if not row[3]]
