"""The best evaluation of a run, and the patience with which it waits for a better one."""

import pytest

from kd2.distill import ConfigError
from kd2.runs.best import Best

TESTS = ["val"]


def after(values: list[float], best: Best) -> Best:
    """``best`` after evaluations that gave ``values``."""
    for value in values:
        best.beaten_by({"bbox/AP": value})
    return best


@pytest.mark.parametrize(
    ("values", "ends"),
    [([1, 2, 3], False), ([3, 1, 2], True), ([3, 3, 3], True), ([3, 1, 4], False), ([3, float("nan"), 2], True)],
)
def test_a_run_ends_when_nothing_was_better_so_often(values, ends):
    assert after(values, Best("bbox/AP", TESTS, patience=2)).exhausted == ends


def test_without_a_patience_a_run_never_ends_early():
    assert not after([3, 2, 1, 0], Best("bbox/AP", TESTS)).exhausted


def test_the_reason_names_metric_value_and_evaluations():
    best = after([0.5, 43.125, 40, 41], Best("bbox/AP", TESTS, patience=2))
    assert best.reason() == "TEST.PATIENCE: bbox/AP was not above 43.125 in 2 evaluations"


def test_a_resumed_run_counts_from_its_checkpoint():
    entry = after([3, 1], Best("bbox/AP", TESTS, patience=2)).entry()
    assert after([2], Best("bbox/AP", TESTS, patience=2, saved=entry)).exhausted


def test_evaluations_behind_the_checkpoint_count_anew():
    """The kept student may be of one of them, and stays the best."""
    saved, kept = (after(values, Best("bbox/AP", TESTS, patience=2)).entry() for values in ([1], [1, 5]))
    best = Best("bbox/AP", TESTS, kept, 2, saved)
    assert not best.beaten_by({"bbox/AP": 5})
    assert (best.waited, best.level) == (0, 5)


@pytest.mark.parametrize("entry", [None, 3, {"metric": "bbox/AP", "tests": TESTS, "waited": float("nan"), "level": []}])
def test_what_no_run_wrote_does_not_count(entry):
    best = Best("bbox/AP", TESTS, patience=2, saved=entry)
    assert (best.waited, best.level) == (0, float("-inf"))


@pytest.mark.parametrize(
    ("metric", "tests"), [("bbox/AP", ["val"]), ("new/bbox/AP", ["val", "new"]), ("bbox_TTA/AP", ["val"])]
)
def test_what_a_later_evaluation_gives_is_no_unknown_metric(metric, tests):
    Best(metric, tests).check_names(["val/bbox/AP"] if len(tests) > 1 else ["bbox/AP"])


@pytest.mark.parametrize(
    ("metric", "tests"), [("bbox/AQ", ["val"]), ("val/bbox/AP", ["val"]), ("new/bbox/AP", ["new"])]
)
def test_what_no_evaluation_gives_is_refused(metric, tests):
    with pytest.raises(ConfigError, match=f"^TEST.BEST is '{metric}', which no evaluation gives; did you mean bbox/AP"):
        Best(metric, tests).check_names(["bbox/AP"])


def test_another_metric_begins_anew():
    entry = after([3, 1], Best("bbox/AP", TESTS, patience=2)).entry()
    assert Best("segm/AP", TESTS, patience=2, saved=entry).waited == 0
