"""Batch normalization of a head that all levels share."""

import pytest
import torch
from torch import nn

from kd2.networks.level_norm import LevelBatchNorm


def levels() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(2, 3, side, side) * scale + shift for side, scale, shift in ((8, 1, 0), (4, 9, 5), (2, 0.1, -7))
    ]


def passed(norm: nn.Module, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    return [norm(x) for x in maps]


def test_in_evaluation_each_level_has_statistics_of_its_own():
    norm, maps = LevelBatchNorm(3, 3), levels()
    for level in norm:
        level.momentum = None  # the mean over all batches, which is the only one
    trained = passed(norm, maps)
    for seen, drawn, x in zip(passed(norm.eval(), maps), trained, maps):
        values = x.numel() / 3  # the running variance is the unbiased one
        torch.testing.assert_close(seen, drawn * ((values - 1) / values) ** 0.5, rtol=1e-3, atol=1e-3)


def test_a_pass_that_ended_on_the_way_does_not_shift_the_levels():
    norm, maps = LevelBatchNorm(3, 3), levels()
    passed(norm, maps)
    whole = passed(norm.eval(), maps)
    norm(maps[0])
    norm.begin()
    assert all(torch.equal(a, b) for a, b in zip(passed(norm, maps), whole))


def test_it_is_detectron2s():
    layers = pytest.importorskip("detectron2.layers.batch_norm", reason="needs Detectron2")
    ours, theirs = LevelBatchNorm(3, 3), layers.CycleBatchNormList(3, num_features=3)
    for norm in (ours, theirs):
        torch.manual_seed(1)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        passed(norm, levels())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for one, other in zip(passed(ours.eval(), levels()), passed(theirs.eval(), levels())):
        torch.testing.assert_close(one, other)
