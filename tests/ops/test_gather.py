"""Values at chosen cells: equal to the dense form, in value and in gradient."""

import pytest
import torch
from torch import nn

from kd2.ops.gather import at_cells, chosen, conv_at_cells

# Corners and borders of both images of a 2 x 5 x 7 map, and one cell in the middle.
FEW = torch.tensor([0, 6, 17, 28, 34, 35, 41, 69])
ALL = torch.arange(70)


def inputs() -> tuple[torch.Tensor, nn.Conv2d]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True), nn.Conv2d(3, 4, 3, padding=1).double()


def dense(y: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    return y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])[cells]


def test_cells_of_a_mask_are_flat_indices():
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[0, 1, 0] = mask[1, 0, 2] = True
    assert chosen(mask, torch.device("cpu")).tolist() == [3, 8]


def test_columns_at_cells_are_those_of_the_map():
    x, _ = inputs()
    assert torch.equal(at_cells(x, FEW), dense(x, FEW))


@pytest.mark.parametrize("cells", [FEW, ALL], ids=["gathered", "dense"])
def test_a_convolution_at_cells_equals_the_dense_one(cells):
    x, conv = inputs()
    torch.testing.assert_close(conv_at_cells(x, conv, cells), dense(conv(x), cells), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cells", [FEW, ALL], ids=["gathered", "dense"])
def test_gradients_of_a_convolution_at_cells_equal_the_dense_ones(cells):
    x, conv = inputs()
    leaves = [x, conv.weight, conv.bias]
    found = torch.autograd.grad(conv_at_cells(x, conv, cells).square().sum(), leaves)
    expected = torch.autograd.grad(dense(conv(x), cells).square().sum(), leaves)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("count", "runs"), [(21, 0), (22, 1)], ids=["30 percent", "more"])
def test_the_dense_convolution_runs_above_thirty_percent_of_the_cells(count, runs):
    x, conv = inputs()
    calls = []
    conv.register_forward_hook(lambda *_: calls.append(1))
    conv_at_cells(x, conv, ALL[:count])
    assert len(calls) == runs


def test_no_cells_give_an_empty_result_with_zero_gradients():
    x, conv = inputs()
    y = conv_at_cells(x, conv, ALL[:0])
    y.sum().backward()
    assert y.shape == (0, 4)
    assert not any(leaf.grad.any() for leaf in (x, conv.weight, conv.bias))
