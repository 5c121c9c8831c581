"""Matching without a map of positions by positions, against the formula of the target-aware transformer."""

import pytest
import torch

from kd2.losses.tat import target_aware_distance
from kd2.ops import matching
from kd2.ops.sparse_attention import few_entries

from ..helpers.whole import random_map


@pytest.mark.parametrize("form", [matching._blockwise, matching._fused])
@pytest.mark.parametrize("at_once", [1, 7, 40, 10_000])
def test_both_forms_equal_the_explicit_map(form, at_once, monkeypatch):
    monkeypatch.setattr(matching, "_AT_ONCE", at_once)
    inputs = [random_map(3, 6, 5, seed=seed).double().requires_grad_() for seed in range(3)]
    target = random_map(3, 6, 5, seed=3).double()
    results = []
    for distance in (form, target_aware_distance):
        loss = distance(*inputs, target)
        results.append([loss, *torch.autograd.grad(loss, inputs)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_an_input_without_gradient_costs_nothing(fixed):
    inputs = [random_map(2, 6, 5, seed=seed).requires_grad_(seed != fixed) for seed in range(3)]
    expected = [x.clone().detach().requires_grad_(x.requires_grad) for x in inputs]
    for leaves, distance in ((inputs, matching.matching_distance), (expected, target_aware_distance)):
        distance(*leaves, random_map(2, 6, 5, seed=3)).backward()
    assert inputs[fixed].grad is None
    torch.testing.assert_close([x.grad for x in inputs], [x.grad for x in expected])


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.float64, 1e-12)])
def test_an_attention_that_is_nearly_one_hot_is_matched_by_its_few_entries(dtype, error, monkeypatch):
    """Relative to the largest element. In float32 similarities of hundreds are off by 1e-4, and so is their softmax."""
    monkeypatch.setattr(matching, "_AT_ONCE", 1 << 13)
    inputs = [random_map(2, 256, 96, seed=seed).to(dtype).requires_grad_() for seed in range(3)]
    target = random_map(2, 256, 96, seed=3).to(dtype)
    query, key = (8 * x[0].detach() for x in inputs[:2])
    assert 256 <= len(few_entries(query, key, 32).values) < 256 * 256 / 32
    results = []
    for distance, kind in ((matching.matching_distance, dtype), (target_aware_distance, torch.float64)):
        leaves = [x.detach().to(kind).requires_grad_() for x in inputs]
        loss = distance(8 * leaves[0], leaves[1], leaves[2], target.to(kind))
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= error * expected.abs().max()


def test_an_even_attention_has_no_few_entries():
    assert few_entries(*(0.1 * random_map(2, 256, 8)), 32) is None


@pytest.mark.parametrize("positions", [128, 125])
def test_entries_have_their_places(positions):
    query, key = (4 * random_map(2, positions, 64)).unbind()
    entries = few_entries(query, key, 50)
    rows, columns, starts, values = entries
    attention = (query @ key.mT).softmax(-1)
    assert starts.tolist() == [(rows < row).sum().item() for row in range(positions + 1)]
    found = torch.zeros(positions, positions).index_put((rows, columns), values)
    torch.testing.assert_close(found, attention, rtol=1e-4, atol=1e-6)
    (transposed,) = entries.transposed(values)
    torch.testing.assert_close(transposed @ query, attention.mT @ query, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_lost(bad, monkeypatch):
    monkeypatch.setattr(matching, "_AT_ONCE", 1 << 12)
    query, key, value, target = 8 * random_map(4, 1, 128, 64)
    query[0, 60, 3] = bad
    assert few_entries(query[0], key[0], 64) is not None
    assert matching.matching_distance(query, key, value, target).isnan()


def test_similarities_in_the_thousands_do_not_overflow():
    assert matching.matching_distance(*(1000 * random_map(4, 1, 6, 5))).isfinite()
