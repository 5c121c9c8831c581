"""Mixup once on shared pixels."""

import numpy as np
import pytest
import torch

from kd2.data.classification.mixup import Mix, draw_mix, normalized, unit_pixels
from kd2.distill import ConfigError


def batch(images: int = 5) -> torch.Tensor:
    return torch.rand(images, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_an_image_is_mixed_with_the_one_before():
    x = batch()
    mixed = Mix(0.25)(x)
    torch.testing.assert_close(mixed[2], 0.25 * x[2] + 0.75 * x[1])
    torch.testing.assert_close(mixed[0], 0.25 * x[0] + 0.75 * x[4])


def test_a_partner_can_be_named():
    x = batch(3)
    torch.testing.assert_close(Mix(0.5, torch.tensor([2, 0, 1]))(x)[0], (x[0] + x[2]) / 2)


def test_the_batch_itself_is_not_changed():
    x = batch()
    Mix(0.5)(x)
    assert x.equal(batch())


def test_labels_are_mixed_like_pixels():
    assert Mix(0.25)(torch.eye(3)).tolist() == [[0.25, 0, 0.75], [0.75, 0.25, 0], [0, 0.75, 0.25]]


def test_mixing_once_and_normalising_twice_is_normalising_first_and_mixing_alike():
    mix = Mix(0.3)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    torch.testing.assert_close(normalized(mix(batch()), mean, std), mix(normalized(batch(), mean, std)))


def test_the_draw_depends_on_seed_and_iteration_alone():
    assert draw_mix(1.0, 0, 7) == draw_mix(1.0, 0, 7)
    assert len({draw_mix(1.0, seed, iteration).coefficient for seed in (0, 1) for iteration in range(5)}) == 10


def test_alpha_one_is_uniform():
    drawn = np.sort([draw_mix(1.0, 0, i).coefficient for i in range(2000)])
    assert np.abs(drawn - np.linspace(0, 1, 2000)).max() < 0.04


def test_a_small_alpha_mixes_little():
    drawn = np.array([draw_mix(0.1, 0, i).coefficient for i in range(500)])
    assert np.mean(np.minimum(drawn, 1 - drawn) < 0.05) > 0.5


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_an_alpha_that_is_not_above_zero_is_refused(alpha):
    with pytest.raises(ConfigError, match=f"KD.VIEWS.MIXUP_ALPHA is {alpha}, expected a number above 0"):
        draw_mix(alpha, 0, 0)


def test_eight_bit_pixels_become_float32_between_zero_and_one():
    x = unit_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert (x.dtype, x.tolist()) == (torch.float32, pytest.approx([0.0, 0.2, 1.0]))


def test_each_channel_has_its_mean_and_deviation():
    x = normalized(torch.ones(1, 3, 1, 1), (0.5, 0.0, 1.0), (0.5, 0.25, 2.0))
    assert x.flatten().tolist() == [1.0, 4.0, 0.0]
