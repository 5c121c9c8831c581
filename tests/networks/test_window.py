"""Whole images and sliding windows."""

import torch

from kd2.networks.window import enlarged, predict, starts


def pointwise(images: torch.Tensor) -> torch.Tensor:
    return torch.cat([images * 2, images - 1], 1)


def test_windows_cover_a_side_and_the_last_ends_at_the_border():
    assert starts(10, 4, 3) == [0, 3, 6]
    assert starts(9, 4, 4) == [0, 4, 5]
    assert starts(4, 4, 2) == [0]


def test_windows_of_a_pointwise_network_give_the_whole_image():
    images = torch.rand(2, 3, 11, 14)
    assert torch.allclose(predict(pointwise, images, (4, 5), (3, 2)), predict(pointwise, images), atol=1e-6)


def test_overlapping_scores_are_averaged():
    """A network that answers with the mean of its window; windows of 2 columns at 0 and 1."""
    images = torch.tensor([1.0, 3.0, 7.0]).reshape(1, 1, 1, 3)
    scores = predict(lambda x: x.mean((2, 3), keepdim=True), images, (1, 2), (1, 1))
    assert scores.flatten().tolist() == [2.0, 3.5, 5.0]


def test_a_window_is_at_most_the_image():
    seen = []
    predict(lambda x: seen.append(x.shape) or x, torch.rand(1, 3, 6, 9), (8, 8), (8, 8))
    assert {tuple(shape) for shape in seen} == {(1, 3, 6, 8)}


def test_scores_are_enlarged_with_aligned_corners():
    assert enlarged(torch.tensor([[[[0.0, 2.0]]]]), (1, 5)).flatten().tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_small_scores_of_a_window_are_enlarged_to_the_window():
    scores = predict(lambda x: x[..., ::2, ::2], torch.ones(1, 2, 8, 8), (4, 4), (4, 4))
    assert torch.allclose(scores, torch.ones(1, 2, 8, 8))
