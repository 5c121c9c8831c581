"""Distance of feature maps: hint learning and plain mimicking."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.losses import check_losses
from kd2.losses.features import FeatureDistance, feature_distance

from ..helpers import whole
from ..helpers.whole import random_map, value

HINT = {"adapter": "valid", "relu": True, "reduction": "half_sum_per_image"}

BATCH_INFO = BatchInfo([(1, 1)], (1, 1))


def hint(student: FeatureSpec, teacher: FeatureSpec, levels: int = 1, **options) -> FeatureDistance:
    return FeatureDistance([student] * levels, [teacher] * levels, **HINT | options)


def spec(channels: int, height: int, width: int) -> FeatureSpec:
    return FeatureSpec(channels, (height, width), (1, 1))


def test_half_the_sum_of_squares_is_averaged_over_images():
    assert feature_distance(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 2.0), "half_sum_per_image").item() == 24.0


def test_mean_averages_every_element():
    assert feature_distance(torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 2.0), "mean").item() == 4.0


def test_half_precision_maps_give_a_float32_loss_without_overflow():
    x = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    loss = feature_distance(torch.zeros_like(x), x, "half_sum_per_image")
    assert (loss.dtype, loss.item()) == (torch.float32, 180000.0)


@pytest.mark.parametrize(("student", "kernel"), [((8, 9), (1, 1)), ((10, 9), (3, 1)), ((12, 14), (5, 6))])
def test_the_kernel_matches_the_sizes(student, kernel):
    assert hint(spec(3, *student), spec(5, 8, 9)).adapters[0].conv.kernel_size == kernel


@pytest.mark.parametrize("relu", [True, False])
def test_the_adapter_has_the_teachers_non_linearity(relu):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 7), torch.randn(2, 5, 4, 4)
    loss = hint(spec(3, 6, 7), spec(5, 4, 4), relu=relu)
    adapted = F.conv2d(student, loss.adapters[0].conv.weight, loss.adapters[0].conv.bias)
    expected = feature_distance(F.relu(adapted) if relu else adapted, teacher, "half_sum_per_image")
    torch.testing.assert_close(loss([student], [teacher], BATCH_INFO), expected)


@pytest.mark.parametrize(
    ("student", "form"),
    [
        ((8, 8), (nn.Conv2d, (1, 1), (1, 1))),
        ((16, 16), (nn.Conv2d, (3, 3), (2, 2))),
        ((4, 4), (nn.ConvTranspose2d, (4, 4), (2, 2))),
        ((10, 10), (nn.Conv2d, (3, 3), (1, 1))),
    ],
)
def test_halving_meets_other_sizes_with_a_stride(student, form):
    loss = hint(spec(3, *student), spec(5, 8, 8), adapter="halving")
    conv = loss.adapters[0].conv
    assert (type(conv), conv.kernel_size, conv.stride) == form
    assert loss.adapters[0](torch.zeros(2, 3, *student)).shape == (2, 5, 8, 8)


def test_batch_norm_follows_the_convolution_and_uses_the_batch():
    torch.manual_seed(0)
    loss = hint(spec(3, 6, 6), spec(5, 6, 6), batch_norm=True, relu=False)
    adapted = loss.adapters[0](10 + torch.randn(4, 3, 6, 6))
    torch.testing.assert_close(adapted.mean((0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(adapted.var((0, 2, 3), unbiased=False), torch.ones(5), rtol=0, atol=1e-3)


def test_a_student_that_is_not_half_the_teacher_is_refused_under_halving():
    with pytest.raises(ConfigError, match=r"the student's map \(3, 4\) is smaller than the teacher's \(8, 8\)"):
        hint(spec(3, 3, 4), spec(5, 8, 8), adapter="halving")


def test_levels_are_added():
    student, teacher = [torch.randn(1, 3, 4, 4)] * 2, [torch.randn(1, 5, 4, 4)] * 2
    both = hint(spec(3, 4, 4), spec(5, 4, 4), 2, reduction="mean")
    both.adapters[1].conv.load_state_dict(both.adapters[0].conv.state_dict())
    one = hint(spec(3, 4, 4), spec(5, 4, 4), reduction="mean")
    one.adapters[0].conv.load_state_dict(both.adapters[0].conv.state_dict())
    torch.testing.assert_close(both(student, teacher, BATCH_INFO), 2 * one(student[:1], teacher[:1], BATCH_INFO))


def test_a_student_smaller_than_the_teacher_is_refused():
    with pytest.raises(ConfigError, match=r"the student's map \(4, 4\) is smaller than the teacher's \(4, 5\)"):
        hint(spec(3, 4, 4), spec(5, 4, 5))


def test_sizes_that_changed_after_the_probe_are_refused():
    loss = hint(spec(3, 6, 6), spec(5, 4, 4))
    with pytest.raises(ConfigError, match=r"the adapter gives \(1, 5, 6, 6\), the teacher \(1, 5, 5, 5\)"):
        loss([torch.zeros(1, 3, 8, 8)], [torch.zeros(1, 5, 5, 5)], BATCH_INFO)


# The fast form against the formula.


@pytest.mark.parametrize("reduction", ["mean", "sum_per_image", "half_sum_per_image"])
def test_value_and_gradient_are_those_of_the_formula(reduction):
    student, teacher = random_map(2, 3, 4, 5).requires_grad_(), random_map(2, 3, 4, 5, seed=1)
    loss = FeatureDistance([spec(3, 4, 5)], [spec(3, 4, 5)], reduction=reduction)
    found, expected = loss([student], [teacher], BATCH_INFO), feature_distance(student, teacher, reduction)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(expected, student))


# Plain mimicking.


def test_mimicking_has_the_normalization_of_mgd():
    loss = FeatureDistance([spec(6, 8, 12)], [spec(6, 8, 12)])
    assert list(loss.parameters()) == []
    assert value(loss, torch.zeros(2, 6, 8, 12), torch.full((2, 6, 8, 12), 2.0)).item() == 4 * 6 * 8 * 12


def test_mimicking_adapts_other_channels():
    student, teacher = random_map(2, 4, 8, 12), random_map(2, 6, 8, 12, seed=1)
    loss = FeatureDistance([spec(4, 8, 12)], [spec(6, 8, 12)])
    conv = loss.adapters[0].conv
    expected = (F.conv2d(student, conv.weight, conv.bias) - teacher).square().sum() / 2
    torch.testing.assert_close(value(loss, student, teacher), expected)


def test_without_an_adapter_other_channels_are_refused():
    with pytest.raises(ConfigError, match="ADAPTER is none, but the student has 4 channels and the teacher 6"):
        FeatureDistance([spec(4, 8, 12)], [spec(6, 8, 12)], adapter="none")


def test_an_adapter_that_matches_sizes_goes_with_no_resizing():
    text = "KD.LOSSES.hint: RESIZE is student, but ADAPTER valid matches the sizes itself; expected RESIZE: none"
    with pytest.raises(ConfigError, match=text):
        check_losses({"hint": {"RESIZE": "student"}})


def test_strides_of_the_maps_do_not_matter():
    whole.same_for_any_strides(FeatureDistance(whole.spec(), whole.spec()))


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(FeatureDistance(whole.spec(), whole.spec()))
