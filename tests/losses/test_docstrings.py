"""Every example of a docstring runs, and every config that one shows is accepted."""

import doctest
import importlib
import pkgutil
import re

import pytest
import yaml

import kd2.losses
import kd2.ops
from kd2.losses import check_losses, loss_types
from kd2.losses.registry import LOSSES

MODULES = [
    module.name for room in (kd2.losses, kd2.ops) for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
]


def shown(kind: str) -> list[str]:
    """The configs ``KEY: value, ...`` in the docstring of a loss."""
    text = " ".join((LOSSES.get(kind).loss.__doc__ or "").split())
    return re.findall(r"``([A-Z_]+: [^`]+)``", text)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_some_module_has_an_example():
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) > 0


@pytest.mark.parametrize("kind", loss_types())
def test_configs_in_the_docstring_of_a_loss_are_accepted(kind):
    for text in shown(kind):
        check_losses({kind: {"TAP": "a"} | yaml.safe_load(f"{{{text}}}")})


def test_docstrings_show_configs():
    assert len(shown("pairwise")) >= 2
