"""Configs with random mistakes: loaded or refused in one line, in bounded time."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from ..helpers.fuzz_configs import Case, check_one, mutated_config

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_one(case, Path(folder))


@settings(max_examples=120, derandomize=True, **COMMON)
@given(mutated_config())
def test_a_mistaken_config_is_loaded_or_refused_in_one_line(case):
    check(case)


@pytest.mark.fuzz
@settings(max_examples=2000, **COMMON)
@given(mutated_config())
def test_many_mistaken_configs_are_loaded_or_refused_in_one_line(case):
    check(case)
