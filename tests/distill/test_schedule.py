"""Schedules: the factor of a loss at an iteration."""

from kd2.distill import Schedule


def test_a_plain_weight_counts_always():
    assert [Schedule(0.5).at(i) for i in (0, 10**9)] == [0.5, 0.5]


def test_a_loss_waits_for_its_start():
    assert [Schedule(2.0, start=400).at(i) for i in (0, 399, 400)] == [0.0, 0.0, 2.0]


def test_a_ramp_climbs_in_equal_steps_and_never_begins_at_zero():
    assert [Schedule(4.0, start=10, ramp=3).at(i) for i in range(9, 15)] == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]


def test_a_loss_is_zero_from_its_stop_on():
    assert [Schedule(1.0, stop=5).at(i) for i in (4, 5, 6)] == [1.0, 0.0, 0.0]


def test_a_loss_is_over_from_its_stop_on():
    assert [Schedule(1.0, stop=5).over(i) for i in (4, 5)] == [False, True]


def test_a_loss_without_a_stop_is_never_over():
    assert not Schedule(1.0).over(10**9)


def test_a_loss_that_has_not_begun_is_not_over():
    assert not Schedule(1.0, start=400).over(0)
