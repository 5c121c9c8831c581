"""Channel-wise distillation of segmentation logits."""

import pytest
import torch
from ..helpers import whole
from ..helpers.whole import random_map, spec, value

from kd2.distill import ConfigError
from kd2.losses.channel_kd import ChannelKd, channel_divergence


def test_the_divergence_is_over_cells_and_averaged_over_classes():
    # One class, two cells: teacher (1/2, 1/2), student (3/4, 1/4): KL = ln 2 - (ln 3) / 2.
    teacher, student = torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, 1.0]]]]).log()
    assert channel_divergence(student, teacher, 1.0).item() == pytest.approx(0.143841)
    both = [torch.cat([x, torch.zeros(1, 1, 1, 2)], 1) for x in (student, teacher)]
    assert channel_divergence(*both, 1.0).item() == pytest.approx(0.143841 / 2)


def test_the_temperature_divides_the_logits_and_its_square_multiplies_the_loss():
    student, teacher = random_map(2, 3, 4, 5), random_map(2, 3, 4, 5, seed=1)
    expected = 9 * channel_divergence(student / 3, teacher / 3, 1.0)
    torch.testing.assert_close(channel_divergence(student, teacher, 3.0), expected)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="TEMPERATURE is 0.0, expected a number above 0"):
        ChannelKd(spec(), spec(), temperature=0.0)


def test_other_class_counts_are_refused():
    with pytest.raises(ConfigError, match="the student's logits have 5 classes, the teacher's 6"):
        ChannelKd(spec(5), spec(6))


def test_half_precision_logits_give_a_float32_loss():
    assert value(ChannelKd(spec(), spec()), *random_map(2, 1, 6, 8, 12).half()).dtype == torch.float32


def test_strides_of_the_maps_do_not_matter():
    whole.same_for_any_strides(ChannelKd(spec(), spec()))


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(ChannelKd(spec(), spec()))


def test_one_map_is_kept_and_no_other_temporary_of_its_size_is_built():
    whole.keeps_one_map(ChannelKd(spec(19), spec(19)))
