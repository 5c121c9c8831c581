"""The report before training, on toy models."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.step import step_times
from kd2.distill import BatchInfo, Distiller
from kd2.engine.experiment import DryRun
from kd2.engine.preflight import (
    LOSS_HEADER,
    TAP_HEADER,
    first_with_objects,
    loss_rows,
    problems,
    share_rows,
    start_up,
    tap_rows,
    teacher_share,
)

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


def test_a_loss_row_has_raw_value_weight_gradient_norm_and_adapter_parameters(dry_run):
    row = loss_rows(dry_run)[-1]
    assert len(row) == len(LOSS_HEADER)
    name, whose, raw, weight, share, norm, parameters = row
    assert (name, whose, weight, share) == ("loss_imitation", "distillation", 0.5, "")
    assert raw > 0 and norm > 0
    assert parameters == 2 * (4 * 6 * 9 + 6)


def test_the_students_own_losses_stand_beside_those_of_distillation(dry_run):
    rows = loss_rows(dry_run)
    assert [row[:2] for row in rows] == [["loss_score", "own"], ["loss_imitation", "distillation"]]
    (own, _) = rows
    assert own[2] > 0 and own[3:5] == [1, ""] and own[5] > 0 and own[6] == 0


def test_a_share_is_shown_with_its_factor_at_every_map():
    dry_run = DryRun(
        toys.distiller({"imitation": toys.IMITATION | {"SHARE": 0.5, "CALIBRATE_ITERS": 3}}), toys.batch, {}
    )
    row = loss_rows(dry_run)[-1]
    assert (row[0], row[3], row[4]) == ("loss_imitation", "", 0.5) and row[5] > 0
    factors = share_rows(dry_run)
    assert [found[:2] for found in factors] == [["imitation", "p3"], ["imitation", "p4"]]
    dry_run.distiller(dry_run.batch)
    assert factors[0][2] == pytest.approx(dry_run.distiller.stats["share/imitation/p3"].item())


@pytest.mark.parametrize("index, name", [(0, "loss_score"), (1, "loss_imitation")])
def test_the_gradient_norm_is_that_of_the_weighted_loss_in_the_student(dry_run, index, name):
    norm = loss_rows(dry_run)[index][5]
    dry_run.distiller(dry_run.batch)[name].backward()
    squares = sum(
        float(p.grad.double().square().sum()) for p in dry_run.distiller.student.parameters() if p.grad is not None
    )
    assert norm == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_an_own_loss_that_is_not_finite_is_a_problem():
    assert problems([["loss_cls", "own", float("inf"), 1.0, float("inf"), 0.0, 0]])[0].startswith(
        "loss_cls is not finite"
    )


def test_an_own_loss_of_zero_is_no_problem():
    assert problems([["loss_mask", "own", 0.0, 1.0, 0.0, 0.0, 0]]) == []


def boxes(*counts: int):
    """What brings a batch with so many boxes in its images."""
    info = BatchInfo([(8, 8)] * len(counts), (8, 8), [torch.zeros(n, 4) for n in counts])
    return lambda: info


def labels(value: int):
    info = BatchInfo([(8, 8)], (8, 8), labels=torch.full((1, 2, 2), value))
    return lambda: info


@pytest.mark.parametrize(
    ("batches", "chosen"),
    [([boxes(0, 0), boxes(0, 1), boxes(2, 2)], 1), ([labels(255), labels(0)], 1), ([boxes(0)] * 3, 0)],
)
def test_the_first_batch_with_an_object_is_taken(batches, chosen):
    distiller = SimpleNamespace(batch_info=lambda batch: batch)
    assert first_with_objects(distiller, iter(batches)) is batches[chosen]


def test_no_batch_with_an_object_is_told(caplog):
    first_with_objects(SimpleNamespace(batch_info=lambda batch: batch), iter([boxes(0)]))
    assert "none of the first 100 batches has an object" in caplog.text


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
    assert "loss imitation on tap fpn" in criterion and "weight 0.5" in criterion


def test_the_log_of_plain_training_says_so():
    plain = Distiller(toys.Toy(4))
    assert start_up(plain) == ["no loss counts: plain training of the student"]


def test_the_step_benchmark_measures_every_part(dry_run):
    times = step_times(dry_run, rounds=2)
    assert set(times) == {"teacher", "student", "losses", "whole", "overhead", "ratio"}
    assert min(times.values()) > 0


def test_the_step_benchmark_leaves_no_gradients_behind(dry_run):
    step_times(dry_run, rounds=1)
    assert all(p.grad is None or not torch.any(p.grad) for p in dry_run.distiller.parameters())
