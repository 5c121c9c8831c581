"""Paired differences over seeds, and recovery."""

import pytest

from kd2.distill import DataError
from kd2.report.statistics import paired_difference, recovery, t_quantile


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (10, 2.22814), (100, 1.98397)]
)
def test_quantiles_are_those_of_the_printed_tables(freedom, value):
    assert t_quantile(freedom) == pytest.approx(value, abs=1e-4)


def test_differences_are_taken_seed_by_seed():
    told = paired_difference({2: 51.0, 1: 47.0, 3: 50.0}, {1: 42.0, 2: 45.0, 3: 45.5, 4: 99.0})
    # 5, 6, 4.5: mean 5.1667, deviation 0.7638, half the interval 4.3027 * 0.7638 / sqrt(3) = 1.8973
    assert (told.mean, *told.interval) == pytest.approx((5.16667, 3.26938, 7.06395), abs=1e-4)
    assert (told.seeds, told.distinguishable) == (3, True)
    assert str(told) == "+5.2 (95 % interval +3.3 to +7.1 over 3 seeds)"


def test_an_interval_that_holds_zero_is_not_distinguishable():
    told = paired_difference({1: 1.0, 2: -0.5}, {1: 0.0, 2: 0.0})
    assert not told.distinguishable and str(told).endswith("over 2 seeds), not distinguishable")


def test_one_seed_has_no_interval_and_it_says_why():
    told = paired_difference({7: 48.0}, {7: 42.0})
    assert told.interval is None and str(told) == "+6.0 (no interval: one seed has no spread)"


@pytest.mark.parametrize("scores", [{}, {4: 1.0}, {1: float("nan")}])
def test_what_cannot_be_paired_is_refused(scores):
    with pytest.raises(DataError, match="seed"):
        paired_difference(scores, {1: 0.0})


def test_recovery_is_the_closed_part_of_the_gap():
    assert recovery(48.0, 42.0, 54.0) == 0.5 and recovery(40.0, 42.0, 52.0) == -0.2


def test_a_teacher_that_is_not_better_leaves_no_gap():
    assert recovery(48.0, 42.0, 42.0) is None
