"""The page docs/adding_a_loss.md, taken literally."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from kd2.distill import ConfigError
from kd2.losses import build_losses, check_losses, import_losses
from kd2.losses.registry import LOSSES

from ..helpers.whole import batch_info, random_map, spec

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_loss.md").read_text()


def code(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def cosine(tmp_path_factory):
    """The page's loss, built from the page's config."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_losses.py").write_text(code("python"))
    blocks = yaml.safe_load(code("yaml"))["KD"]["LOSSES"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(LOSSES, "_obj_map", dict(LOSSES._obj_map))
        import_losses(["my_losses"])
        yield build_losses(blocks, {"fpn": spec(4)}, {"fpn": spec(6)})
    del sys.modules["my_losses"]


def test_the_config_of_the_page_builds_the_loss(cosine):
    modules, configs = cosine
    assert modules["my_cosine"].sharpness == 2.0
    assert (configs["my_cosine"].tap, configs["my_cosine"].schedule.weight) == ("fpn", 0.5)


def test_the_loss_of_the_page_trains_its_adapters(cosine):
    loss = cosine[0]["my_cosine"]
    found = loss([random_map(2, 4, 8, 12)], [random_map(2, 6, 8, 12, seed=1)], batch_info())
    found.backward()
    assert (found.dtype, found.shape) == (torch.float32, ())
    assert all(p.grad is not None for p in loss.parameters())


def test_its_options_are_checked_from_the_text(cosine):
    with pytest.raises(ConfigError, match="KD.LOSSES.cosine.SHARPNESS is -1.0, expected a number above 0"):
        check_losses({"cosine": {"SHARPNESS": -1.0}})


@pytest.mark.parametrize("name", ["needs", "parts", "stats", "parameter_group"])
def test_the_attributes_of_the_page_are_those_that_the_losses_have(name):
    sources = [p.read_text() for p in (Path(__file__).parents[2] / "kd2").glob("*s/*.py")]
    assert f"| `{name}" in PAGE
    assert any(re.search(rf"self\.({name}|.*, self\.{name})\b", source) for source in sources)
