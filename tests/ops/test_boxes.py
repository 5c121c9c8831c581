"""Coding of boxes."""

import math

import pytest
import torch

from kd2.distill import BoxCoder
from kd2.ops.boxes import decode, encode_deltas, generalized_iou

ANCHOR = torch.tensor([10.0, 20, 18, 24])  # 8 wide, 4 high, center (14, 22)


def test_deltas_move_the_center_by_sides_and_stretch_by_exponentials():
    deltas = torch.tensor([10.0, -10, 5 * math.log(2), 0])
    found = decode(BoxCoder("deltas", (10.0, 10.0, 5.0, 5.0)), deltas, ANCHOR)
    torch.testing.assert_close(found, torch.tensor([14.0, 16, 30, 20]))


def test_encoding_is_the_inverse_of_decoding():
    weights, deltas = (10.0, 10.0, 5.0, 5.0), torch.tensor([[1.0, -2, 3, 0.5], [0, 0, 0, 0]])
    boxes = decode(BoxCoder("deltas", weights), deltas, ANCHOR)
    torch.testing.assert_close(encode_deltas(boxes, ANCHOR.expand(2, 4), weights), deltas)


def test_distances_go_from_the_center_in_sides_and_never_back():
    found = decode(BoxCoder("distances"), torch.tensor([1.0, 0.5, 0.25, -3]), ANCHOR)
    torch.testing.assert_close(found, torch.tensor([6.0, 20, 16, 22]))


def test_a_box_grows_to_no_more_than_62_and_a_half_times_its_anchor():
    deltas = torch.tensor([0.0, 0, 99, 0], requires_grad=True)
    found = decode(BoxCoder(), deltas, ANCHOR)
    assert (found[2] - found[0]).item() == pytest.approx(8 * 62.5)
    found.sum().backward()
    assert deltas.grad[2] == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([0.0, 0, 2, 2], 1.0),
        ([2.0, 0, 4, 2], 0.0),  # side by side
        ([4.0, 0, 6, 2], -1 / 3),  # a third of the hull between them
        ([1.0, 1, 3, 3], 1 / 7 - 2 / 9),
    ],
)
def test_generalized_iou(other, expected):
    found = generalized_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor(other))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_boxes_without_area_in_one_place_have_0_without_gradient():
    point = torch.ones(4, requires_grad=True)
    found = generalized_iou(point, torch.ones(4))
    found.backward()
    assert found == 0 and point.grad.abs().max() == 0
