"""The adapters of the imitation loss: the student's map becomes one that compares with the teacher's."""

import pytest
import torch
import torch.nn.functional as F

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.losses.imitation import Imitation

# Every test compares whole maps (mode "full"), so boxes and anchors do not matter.
BATCH_INFO = BatchInfo([(32, 48)], (32, 48))


def spec(channels: int = 3, height: int = 4, width: int = 6, stride: float = 8) -> list[FeatureSpec]:
    return [FeatureSpec(channels, (height, width), (stride, stride))]


def maps(channels: int = 3, height: int = 4, width: int = 6) -> list[torch.Tensor]:
    return [torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(channels))]


def dense_loss(adapted: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The loss of full mode, written out."""
    return (adapted - teacher).square().sum() / (2 * teacher.shape[0] * teacher.shape[2] * teacher.shape[3])


def loss_and_expected(student, teacher, prepare, stride: int, relu: bool = False):
    """The loss in full mode, and a dense convolution of ``prepare(student)``."""
    torch.manual_seed(0)
    sizes = [[FeatureSpec(x[0].shape[1], tuple(x[0].shape[2:]), (8, 8))] for x in (student, teacher)]
    loss = Imitation(*sizes, mode="full", relu=relu)
    conv = loss.adapters[0].conv
    torch.nn.init.normal_(conv.weight)
    y = F.conv2d(prepare(student[0]), conv.weight, conv.bias, stride=stride, padding=1)
    return loss(student, teacher, BATCH_INFO), dense_loss(F.relu(y) if relu else y, teacher[0])


def test_the_adapter_maps_channels():
    torch.testing.assert_close(*loss_and_expected(maps(3), maps(5), lambda x: x, stride=1))


def test_the_adapter_ends_in_a_relu_on_request():
    torch.testing.assert_close(*loss_and_expected(maps(3), maps(5), lambda x: x, stride=1, relu=True))


def test_a_student_twice_as_large_is_met_with_stride_two():
    torch.testing.assert_close(*loss_and_expected(maps(3, 8, 12), maps(5), lambda x: x, stride=2))


@pytest.mark.parametrize("size", [(2, 3), (5, 6), (8, 6)])
def test_a_student_of_another_size_is_interpolated(size):
    def resized(x):
        return F.interpolate(x, (4, 6), mode="bilinear", align_corners=False)

    torch.testing.assert_close(*loss_and_expected(maps(3, *size), maps(5), resized, stride=1))


def test_adapters_begin_near_zero():
    weight = Imitation(spec(), spec(5)).adapters[0].conv.weight
    assert 0 < weight.abs().max() <= 2e-4


def test_without_an_adapter_the_maps_are_compared_as_they_are():
    loss = Imitation(spec(), spec(), mode="full", adapter="none")
    student, teacher = maps()[0], maps()[0].flip(3)
    torch.testing.assert_close(loss([student], [teacher], BATCH_INFO), dense_loss(student, teacher))


def test_without_an_adapter_a_smaller_batch_map_is_interpolated():
    loss = Imitation(spec(), spec(), mode="full", adapter="none")
    student, teacher = maps(3, 2, 3)[0], maps()[0]
    expected = dense_loss(F.interpolate(student, (4, 6), mode="bilinear", align_corners=False), teacher)
    torch.testing.assert_close(loss([student], [teacher], BATCH_INFO), expected)


def test_without_an_adapter_different_channels_are_refused():
    with pytest.raises(ConfigError, match=r"ADAPTER is none, but level 0 is 3 x .* in the student and 5 x \(4, 6\)"):
        Imitation(spec(3), spec(5), adapter="none")


def test_without_an_adapter_different_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"level 0 is 3 x \(8, 12\) in the student and 3 x \(4, 6\) in the teacher"):
        Imitation(spec(3, 8, 12), spec(3), adapter="none")


def test_each_level_has_its_own_adapter():
    assert len(Imitation(spec() * 3, spec(5) * 3).adapters) == 3
