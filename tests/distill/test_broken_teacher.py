"""A teacher whose maps are not finite is found at its first look at a batch, and looked for no more."""

import pytest
import torch

from kd2.distill import ConfigError, check_maps
from kd2.distill import teacher as teacher_module

from ..helpers.toys import IMITATION, batch, distiller, unweighted


def broken(value: float, **options):
    """A distiller whose teacher's second stage gives ``value``: p4 of the tap, map 1."""
    model = distiller({"imitation": IMITATION | options})
    torch.nn.init.constant_(model.teacher.model.backbone.stage[1].bias, value)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_error_names_the_teacher_the_tap_and_the_map(value):
    text = "^the teacher gives NaN or infinity at tap 'fpn' map 1; check KD.TEACHER.WEIGHTS"
    with pytest.raises(ConfigError, match=text):
        broken(value)(batch())


def test_the_look_before_training_finds_it_too():
    with pytest.raises(ConfigError, match="the teacher gives NaN"):
        unweighted(broken(float("nan")), batch())


def test_a_second_try_fails_again():
    model = broken(float("nan"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="the teacher gives NaN"):
            model(batch())


def test_a_loss_that_begins_late_brings_the_check_then():
    model = broken(float("nan"), START_ITER=2)
    model(batch())
    model.iteration = 2
    with pytest.raises(ConfigError, match="the teacher gives NaN"):
        model(batch())


def test_a_run_checks_once(monkeypatch):
    checks = []
    monkeypatch.setattr(teacher_module, "check_maps", lambda maps: checks.append(check_maps(maps)))
    model = distiller({"imitation": IMITATION, "hint": {"RELU": False}})
    for model.iteration in range(4):
        model(batch(model.iteration))
    assert len(checks) == 1


def test_all_maps_are_read_back_at_once(monkeypatch):
    reads = []
    to_list = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: reads.append(x) or to_list(x))
    check_maps({"a": [torch.ones(1, 2, 3, 3)] * 3, "b": [torch.ones(1, 2, 3, 3)]})
    assert [len(x) for x in reads] == [4]
