import numpy as np
import pytest

from kd2.deploy.differences import Differences


def found(boxes, scores, labels):
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4), "scores": np.array(scores, np.float32),
        "labels": np.array(labels),
    }  # fmt: skip


def test_detections_meet_their_partners_in_any_order():
    ours = found([[0, 0, 8, 8], [4, 4, 9, 9]], [0.9, 0.5], [0, 1])
    theirs = found([[4, 4, 9, 9.5], [0, 0, 8, 8.25]], [0.5, 0.9], [1, 0])
    apart = Differences()
    apart.add(ours, theirs)
    assert apart.largest == {"boxes": 0.5, "scores": 0.0} and apart.alone == 0


@pytest.mark.parametrize("other", [([[0, 0, 8, 8]], [0.9], [1]), ([[0, 0, 8, 12]], [0.9], [0]), ([], [], [])])
def test_a_detection_of_another_label_or_place_or_none_leaves_it_alone(other):
    apart = Differences()
    apart.add(found([[0, 0, 8, 8]], [0.9], [0]), found(*other))
    assert apart.alone == 1 + len(other[1]) and apart.alone_score == pytest.approx(0.9) and not apart.small()


@pytest.mark.parametrize(("moved", "small"), [(0, True), (1, True), (2, True), (3, False), (400, False)])
def test_a_few_detections_that_the_last_bit_decides_are_rounding_and_more_are_a_fault(moved, small):
    boxes, scores = np.arange(400)[:, None] * 10.0 + [0, 0, 8, 8], np.linspace(0.1, 0.9, 400)
    apart = Differences()
    apart.add(
        found(boxes, scores, [0] * 400), found(boxes + 3.0 * (np.arange(400) < moved)[:, None], scores, [0] * 400)
    )
    assert apart.alone == 2 * moved and apart.small() is small


def test_scores_of_pixels_are_compared_one_by_one():
    apart = Differences()
    apart.add({"scores": np.zeros((2, 3, 3))}, {"scores": np.full((2, 3, 3), 0.25)})
    assert apart.largest == {"scores": 0.25} and not apart.small()
