"""Strided convolutions over maps narrower than their stride, in bfloat16 on a CPU."""

import copy

import pytest
import torch
from torch import Tensor, nn

from kd2.networks.narrow_maps import widen_narrow_maps


def weight_gradient(conv: nn.Conv2d, x: Tensor) -> Tensor:
    conv.zero_grad()
    _poison()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    y.float().square().sum().backward()
    return conv.weight.grad


def _poison() -> None:
    """Leave NaN in the memory that is handed out next."""
    for _ in range(4):
        _ = [
            torch.full((n,), float("nan"), dtype=d)
            for n in (2304, 9216, 65536)
            for d in (torch.float32, torch.bfloat16)
        ]


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (3, 2), (2, 3), (1, 5)])
@pytest.mark.parametrize("shape", [(3, 2, 1), (7, 2, 3), (5, 2, 2), (1, 2, 0), (5, 4, 2)])
def test_weight_gradients_are_those_of_float32(shape, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, *shape)
    x = torch.randn(2, 16, *size)
    plain = copy.deepcopy(conv)
    plain(x).square().sum().backward()
    widen_narrow_maps(conv)
    for _ in range(4):
        torch.testing.assert_close(weight_gradient(conv, x), plain.weight.grad, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("shape", [(3, 2, 1), (7, 2, 3), (1, 2, 0), (5, 4, 2), (2, 2, 1), (4, 2, 2)])
def test_outputs_keep_their_size(shape):
    conv = nn.Conv2d(2, 2, *shape)
    x = torch.randn(1, 2, 4, 1)
    with torch.autocast("cpu", torch.bfloat16):
        before = conv(x)
        widen_narrow_maps(conv)
        torch.testing.assert_close(conv(x), before)
