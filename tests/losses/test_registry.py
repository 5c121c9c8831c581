"""The registry of losses: names, and a user's own module."""

import sys
from typing import Annotated, Literal, get_args, get_origin

import pytest
from torch import nn

from kd2.distill import ConfigError, FeatureSpec, LossConfig, Schedule
from kd2.losses import (
    build_losses,
    check_losses,
    import_losses,
    loss_types,
    register_loss,
)
from kd2.losses.features import FeatureDistance
from kd2.losses.kl import KLDivergence
from kd2.losses.options import defaults_of, options_of
from kd2.losses.registry import LOSSES

SMALL, LARGE = ({"fpn": [FeatureSpec(width, (4, 4), (8.0, 8.0))]} for width in (3, 5))

# A file of a user's own, outside the package.
OWN = """
from typing import Literal

import torch
from torch import nn

from kd2.losses import register_loss


@register_loss("{name}")
class Mine(nn.Module):
    def __init__(self, student, teacher, *, power: Literal[1, 2] = 2):
        super().__init__()
        self.power = power

    def forward(self, student, teacher, batch_info):
        return sum((s - t).abs().pow(self.power).mean() for s, t in zip(student, teacher))
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes a module into the current folder; what it registers and imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(LOSSES, "_obj_map", dict(LOSSES._obj_map))
    before = set(sys.modules)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


# Names.


def test_every_published_loss_has_a_type():
    assert loss_types() == [
        "channel_kd", "dense_kd", "dist", "dkd", "fgd", "hint", "holistic", "imitation", "logits", "mgd", "mimic",
        "pairwise", "pixelwise", "pkd", "roi_kd", "tat",
    ]  # fmt: skip


def test_names_of_one_class_have_defaults_of_their_own():
    modules, _ = build_losses({"hint": {}, "mimic": {}}, SMALL, LARGE)
    assert {type(module) for module in modules.values()} == {FeatureDistance}
    assert [modules[name].reduction for name in ("hint", "mimic")] == ["half_sum_per_image", "sum_per_image"]


def test_the_text_goes_before_the_default_of_a_name():
    modules, _ = build_losses({"channel_kd": {"TAP": "fpn", "TEMPERATURE": 2.0}}, SMALL, SMALL)
    assert (type(modules["channel_kd"]), modules["channel_kd"].temperature) == (KLDivergence, 2.0)


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ConfigError, match="a loss 'mgd' is registered already: kd2.losses.mgd.Mgd"):
        register_loss("mgd")(nn.Identity)


def test_a_name_that_is_no_identifier_is_refused():
    with pytest.raises(ConfigError, match="a loss cannot be registered as 'my-loss', expected a Python identifier"):
        register_loss("my-loss")


@pytest.mark.parametrize(
    ("presets", "text"),
    [
        ({"sharp": 1.0}, "there is no option 'sharp'; did you mean share"),
        ({"share": "all"}, "share is 'all' .*, expected a number"),
    ],
)
def test_a_default_of_a_name_must_be_an_option_with_a_valid_value(presets, text):
    class Loss(nn.Module):
        def __init__(self, student, teacher, *, share: float = 0.0):
            super().__init__()

    with pytest.raises(ConfigError, match=text):
        register_loss("mine", **presets)(Loss)


def test_an_option_whose_type_cannot_be_checked_is_refused():
    class Loss(nn.Module):
        def __init__(self, student, teacher, *, table: dict = {}):  # noqa: B006  # what is refused
            super().__init__()

    with pytest.raises(ConfigError, match="Loss: option table has the type hint <class 'dict'>, expected bool, int"):
        register_loss("mine")(Loss)


def test_a_key_has_one_type_in_all_losses():
    types: dict[str, set] = {}
    for _, entry in LOSSES:
        for option, hint in options_of(entry.loss).items():
            kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            types.setdefault(option, set()).add(type(get_args(kind)[0]) if get_origin(kind) is Literal else kind)
    assert {option: found for option, found in types.items() if len(found) > 1} == {}


def test_resizing_and_clipping_have_one_default_in_all_losses():
    defaults: dict[str, set] = {}
    for option in ("resize", "clip_to_image"):
        for _, entry in LOSSES:
            known = defaults_of(entry.loss) | dict(entry.presets)
            defaults.setdefault(option, set()).update({known[option]} if option in known else ())
    assert defaults == {"resize": {"none"}, "clip_to_image": {False}}


# A user's own module.


def test_a_loss_from_outside_the_package_is_built_like_any_other(own_module):
    import_losses([own_module("my_losses", OWN.format(name="mine"))])
    modules, configs = build_losses({"first": {"TYPE": "mine", "POWER": 1, "WEIGHT": 0.5}}, SMALL, LARGE)
    assert (type(modules["first"]).__module__, modules["first"].power) == ("my_losses", 1)
    assert configs["first"] == LossConfig("fpn", Schedule(0.5))


def test_its_options_are_checked_too(own_module):
    import_losses([own_module("my_losses", OWN.format(name="mine"))])
    with pytest.raises(ConfigError, match="KD.LOSSES.mine.POWER is 3; choices: 1, 2"):
        check_losses({"mine": {"POWER": 3}})


def test_a_module_may_be_named_twice(own_module):
    name = own_module("my_losses", OWN.format(name="mine"))
    import_losses([name, name])
    assert "mine" in loss_types()


@pytest.mark.parametrize("kind", ["my_losses", "my_losses.Mine"])
def test_a_config_never_imports_a_module(own_module, kind):
    own_module("my_losses", "raise RuntimeError('imported')")
    with pytest.raises(ConfigError, match=f"KD.LOSSES.x.TYPE: there is no loss '{kind}'"):
        check_losses({"x": {"TYPE": kind}})
    assert "my_losses" not in sys.modules


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1", "it registers no loss; expected a class under @register_loss"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (OWN.format(name="mgd"), "a loss 'mgd' is registered already: kd2.losses.mgd.Mgd"),
    ],
)
def test_a_module_that_cannot_serve_is_refused(own_module, text, error):
    with pytest.raises(ConfigError, match=f"--import my_losses: {error}"):
        import_losses([own_module("my_losses", text)])


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="--import no_such_losses: ModuleNotFoundError: No module named"):
        import_losses(["no_such_losses"])


def test_a_file_name_in_place_of_a_module_is_explained(own_module):
    own_module("my_losses", OWN.format(name="mine"))
    with pytest.raises(ConfigError, match="--import my_losses.py: .*; give the name of the module, my_losses"):
        import_losses(["my_losses.py"])
