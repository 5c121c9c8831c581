"""The norms of the target-aware transformer's projections."""

import pytest
import torch

from kd2.losses.tat_projection import Norm

from ..helpers.whole import random_map


@pytest.mark.parametrize("training", [True, False])
def test_image_statistics_equal_a_loop_over_images(training):
    x = 3 + random_map(4, 6, 5, 7)
    ours, plain = Norm(6, "image").train(training), torch.nn.BatchNorm2d(6).train(training)
    for norm in (ours, plain):
        torch.nn.init.constant_(norm.weight, 1.5)
    torch.testing.assert_close(ours(x), torch.cat([plain(image[None]) for image in x]))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)


def test_batch_statistics_are_those_of_a_plain_batch_norm():
    x = 3 + random_map(4, 6, 5, 7)
    torch.testing.assert_close(Norm(6, "batch")(x), torch.nn.BatchNorm2d(6)(x))


@pytest.mark.parametrize("statistics", ["batch", "image"])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_of_one_image_is_right(statistics, training):
    # A transposed view as incoming gradient, as it comes out of an attention over tokens.
    norm = Norm(3, statistics).double().train(training)
    x = random_map(1, 3, 2, 4).double().requires_grad_()
    slope = random_map(1, 8, 3, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: (norm(x).flatten(2).transpose(1, 2) * slope).sum(), x)
