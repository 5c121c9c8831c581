"""The report before training, on toy models."""

import math

import pytest
import torch
from torch import nn

from benchmarks.step import step_times
from kd2.distill import Distiller
from kd2.engine.experiment import DryRun
from kd2.engine.preflight import LOSS_HEADER, TAP_HEADER, loss_rows, problems, start_up, tap_rows, teacher_share

from ..helpers import toys


class Constant(nn.Module):
    """A loss with a chosen value."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, student, teacher, batch_info):
        return student[0].sum() * 0 + self.value


@pytest.fixture
def dry_run() -> DryRun:
    return DryRun(toys.distiller({"imitation": toys.IMITATION | {"WEIGHT": 0.5}}), toys.batch, {})


def with_loss(dry_run: DryRun, criterion: nn.Module) -> DryRun:
    dry_run.distiller.losses["imitation"] = criterion
    return dry_run


def test_a_tap_row_has_maps_channels_and_strides_of_both_sides(dry_run):
    assert tap_rows(dry_run.distiller) == [["fpn", 2, "4", "2 4", 2, "6", "2 4"]]
    assert len(TAP_HEADER) == 7


def test_a_loss_row_has_raw_and_weighted_value_gradient_norm_and_adapter_parameters(dry_run):
    (row,) = loss_rows(dry_run)
    assert len(row) == len(LOSS_HEADER)
    name, raw, weight, weighted, norm, parameters = row
    assert name == "loss_imitation" and weight == 0.5
    assert weighted == pytest.approx(0.5 * raw) and raw > 0
    assert norm > 0
    assert parameters == 2 * (4 * 6 * 9 + 6)


def test_the_gradient_norm_is_that_of_the_raw_loss_in_the_student(dry_run):
    norm = loss_rows(dry_run)[0][4]
    toys.unweighted(dry_run.distiller, dry_run.batch)["loss_imitation"].backward()
    squares = sum(
        float(p.grad.double().square().sum()) for p in dry_run.distiller.student.parameters() if p.grad is not None
    )
    assert norm == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_a_healthy_loss_has_no_problem(dry_run):
    assert problems(loss_rows(dry_run)) == []


def test_a_loss_of_zero_is_a_problem(dry_run):
    assert problems(loss_rows(with_loss(dry_run, Constant(0.0)))) == ["loss_imitation is 0"]


def test_a_loss_without_gradient_is_a_problem(dry_run):
    assert problems(loss_rows(with_loss(dry_run, Constant(2.0)))) == ["loss_imitation has no gradient into the student"]


def test_a_loss_that_is_not_finite_is_a_problem(dry_run):
    (reason,) = problems(loss_rows(with_loss(dry_run, Constant(float("nan")))))
    assert reason.startswith("loss_imitation is not finite")


def test_the_teachers_share_of_a_step_is_a_part_of_it(dry_run):
    assert 0 < teacher_share(dry_run) < 1


def test_the_log_of_a_run_names_taps_and_losses(dry_run):
    tap, criterion = start_up(dry_run.distiller)
    assert tap == "tap fpn: 2 maps, channels 4 / 6, strides 2 4 / 2 4 (student / teacher)"
    assert "loss imitation on tap fpn" in criterion and "weight=0.5" in criterion


def test_the_log_of_plain_training_says_so():
    plain = Distiller(toys.Toy(4))
    assert start_up(plain) == ["no loss counts: plain training of the student"]


def test_the_step_benchmark_measures_every_part(dry_run):
    times = step_times(dry_run, rounds=2)
    assert set(times) == {"teacher", "student", "losses", "whole", "overhead"}
    assert min(times.values()) > 0


def test_the_step_benchmark_leaves_no_gradients_behind(dry_run):
    step_times(dry_run, rounds=1)
    assert all(p.grad is None or not torch.any(p.grad) for p in dry_run.distiller.parameters())
