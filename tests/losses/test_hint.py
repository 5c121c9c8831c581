"""The hint loss (FitNets)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.losses.hint import Hint, hint_loss

SCENE = BatchInfo([(1, 1)], (1, 1))


def spec(channels: int, height: int, width: int) -> FeatureSpec:
    return FeatureSpec(channels, (height, width), (1, 1))


def test_half_the_sum_of_squares_is_averaged_over_images():
    assert hint_loss(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 2.0)).item() == 24.0


def test_mean_averages_every_element():
    assert hint_loss(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 2.0), "mean").item() == 4.0


def test_half_precision_maps_give_a_float32_loss_without_overflow():
    x = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    loss = hint_loss(torch.zeros_like(x), x)
    assert (loss.dtype, loss.item()) == (torch.float32, 180000.0)


@pytest.mark.parametrize(("student", "kernel"), [((8, 9), (1, 1)), ((10, 9), (3, 1)), ((12, 14), (5, 6))])
def test_the_kernel_matches_the_sizes(student, kernel):
    assert Hint([spec(3, *student)], [spec(5, 8, 9)]).regressors[0].kernel_size == kernel


@pytest.mark.parametrize("relu", [True, False])
def test_the_regressor_has_the_teachers_non_linearity(relu):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 7), torch.randn(2, 5, 4, 4)
    criterion = Hint([spec(3, 6, 7)], [spec(5, 4, 4)], relu=relu)
    adapted = F.conv2d(student, criterion.regressors[0].weight, criterion.regressors[0].bias)
    expected = hint_loss(F.relu(adapted) if relu else adapted, teacher)
    torch.testing.assert_close(criterion([student], [teacher], SCENE), expected)


@pytest.mark.parametrize(("student", "form"), [
    ((8, 8), (nn.Conv2d, (1, 1), (1, 1))),
    ((16, 16), (nn.Conv2d, (3, 3), (2, 2))),
    ((4, 4), (nn.ConvTranspose2d, (4, 4), (2, 2))),
    ((10, 10), (nn.Conv2d, (3, 3), (1, 1))),
])
def test_halving_meets_other_sizes_with_a_stride(student, form):
    criterion = Hint([spec(3, *student)], [spec(5, 8, 8)], kernel="halving")
    regressor = criterion.regressors[0]
    assert (type(regressor), regressor.kernel_size, regressor.stride) == form
    assert criterion.adapted(torch.zeros(2, 3, *student), 0).shape == (2, 5, 8, 8)


def test_batch_norm_follows_the_convolution_and_uses_the_batch():
    torch.manual_seed(0)
    criterion = Hint([spec(3, 6, 6)], [spec(5, 6, 6)], batch_norm=True, relu=False)
    adapted = criterion.adapted(10 + torch.randn(4, 3, 6, 6), 0)
    torch.testing.assert_close(adapted.mean((0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(adapted.var((0, 2, 3), unbiased=False), torch.ones(5), rtol=0, atol=1e-3)


def test_a_student_that_is_not_half_the_teacher_is_refused_under_halving():
    with pytest.raises(ConfigError, match=r"the student's map \(3, 4\) is smaller than the teacher's \(8, 8\)"):
        Hint([spec(3, 3, 4)], [spec(5, 8, 8)], kernel="halving")


def test_levels_are_added():
    student, teacher = [torch.randn(1, 3, 4, 4)] * 2, [torch.randn(1, 5, 4, 4)] * 2
    both = Hint([spec(3, 4, 4)] * 2, [spec(5, 4, 4)] * 2, reduction="mean")
    both.regressors[1].load_state_dict(both.regressors[0].state_dict())
    one = Hint([spec(3, 4, 4)], [spec(5, 4, 4)], reduction="mean")
    one.regressors[0].load_state_dict(both.regressors[0].state_dict())
    torch.testing.assert_close(both(student, teacher, SCENE), 2 * one(student[:1], teacher[:1], SCENE))


def test_a_student_smaller_than_the_teacher_is_refused():
    with pytest.raises(ConfigError, match=r"the student's map \(4, 4\) is smaller than the teacher's \(4, 5\)"):
        Hint([spec(3, 4, 4)], [spec(5, 4, 5)])


def test_sizes_that_changed_after_the_rehearsal_are_refused():
    criterion = Hint([spec(3, 6, 6)], [spec(5, 4, 4)])
    with pytest.raises(ConfigError, match=r"the regressor gives \(1, 5, 6, 6\), the teacher \(1, 5, 5, 5\)"):
        criterion([torch.zeros(1, 3, 8, 8)], [torch.zeros(1, 5, 5, 5)], SCENE)
