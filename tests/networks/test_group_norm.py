"""GroupNorm on maps of one cell."""

import pytest
import torch
from torch import nn

from kd2.networks.group_norm import allow_single_values


def lenient(groups: int, channels: int) -> nn.Module:
    model = nn.Sequential(nn.GroupNorm(groups, channels))
    nn.init.normal_(model[0].weight)
    nn.init.normal_(model[0].bias)
    allow_single_values(model)
    return model


def test_a_group_of_one_value_becomes_the_bias():
    model = lenient(4, 4)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.GroupNorm(4, 4)(torch.randn(1, 4, 1, 1))
    torch.testing.assert_close(model(torch.randn(1, 4, 1, 1)).flatten(), model[0].bias, rtol=0, atol=1e-3)


def test_other_values_are_those_of_pytorch_to_the_last_bit():
    model, x = lenient(4, 8), torch.randn(2, 8, 5, 3)
    plain = nn.GroupNorm(4, 8)
    plain.load_state_dict(model[0].state_dict())
    assert torch.equal(model(x), plain(x))


def test_it_can_be_scripted():
    model, x = lenient(2, 2), torch.randn(1, 2, 1, 1)
    assert torch.equal(torch.jit.script(model)(x), model(x))
