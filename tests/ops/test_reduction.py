"""The words of REDUCTION."""

import pytest
import torch

from kd2.ops.reduction import added, reduced


@pytest.mark.parametrize(
    ("word", "divisor"),
    [
        ("mean", 2 * 3 * 20),
        ("pixel_mean", 2 * 20),
        ("channel_mean", 2 * 3),
        ("map_mean", 20),
        ("sum_per_image", 2),
        ("half_sum_per_image", 4),
    ],
)
def test_a_sum_over_two_maps_of_three_channels_and_twenty_cells_is_divided(word, divisor):
    total = torch.tensor(840.0)
    assert reduced(total, word, 2, 3, 40).item() == pytest.approx(840 / divisor)
    assert reduced(total, word, 2, 3, torch.tensor(40)).item() == pytest.approx(840 / divisor)


@pytest.mark.parametrize("word", ["mean", "pixel_mean", "channel_mean", "map_mean", "sum_per_image"])
def test_nothing_is_reduced_to_zero(word):
    assert reduced(torch.tensor(0.0), word, 0, 3, 0).item() == 0
    assert reduced(torch.tensor(0.0), word, 2, 3, torch.tensor(0)).item() == 0


def test_values_are_added_in_their_order():
    assert added(torch.tensor(x) for x in (1e8, 1.0, -1e8)).item() == 0
