"""Squared distance of two maps: precision, and what is kept for the backward pass."""

import pytest
import torch

from kd2.ops.squared_distance import squared_distance

from ..helpers.whole import random_map

STUDENT, TEACHER = random_map(2, 4, 8, 12), random_map(2, 4, 8, 12, seed=1)


@pytest.mark.parametrize(
    "region", [None, (random_map(2, 1, 8, 12, seed=2) > 0).float()], ids=["everywhere", "in a region"]
)
def test_value_and_gradient_are_those_of_the_formula(region):
    student = STUDENT.clone().requires_grad_()
    found = squared_distance(student, TEACHER, region)
    expected = ((student - TEACHER).square() * (1 if region is None else region)).sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(expected, student))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_give_a_float32_distance_and_their_own_gradient(dtype):
    a = torch.full((1, 1, 2, 2), 300.0, dtype=dtype).requires_grad_()
    loss = squared_distance(a, torch.zeros_like(a))
    loss.backward()
    assert (loss.dtype, loss.item()) == (torch.float32, 360000.0)
    assert torch.equal(a.grad, torch.full_like(a, 600.0))


def test_only_the_two_maps_are_kept_for_the_backward_pass():
    a, b, saved = STUDENT.clone().requires_grad_(), STUDENT + 1, []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        squared_distance(a, b)
    assert set(saved) == {a.data_ptr(), b.data_ptr()}
