"""Parts of a loss with a solver of their own."""

import pytest
import torch
from torch import nn

from kd2.distill import ParameterGroupOverride, clip_overrides, override_groups, without_overrides


class Term(nn.Module):
    def __init__(self, clip: float = 0.0):
        super().__init__()
        self.adapter, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        self.critic.parameter_group = ParameterGroupOverride(lr=0.5, weight_decay=0.25, clip=clip)


def graded(criterion: Term, value: float = 3.0) -> list[dict]:
    """Groups of an optimizer over the loss, every gradient being ``value``."""
    for p in criterion.parameters():
        p.grad = torch.full_like(p, value)
    own = override_groups(criterion)
    optimizer = torch.optim.SGD(without_overrides([{"params": list(criterion.parameters())}], own) + own, lr=0.1)
    return optimizer.param_groups


def test_a_part_with_a_solver_has_a_group_and_leaves_the_others():
    criterion = Term()
    common, own = graded(criterion)
    assert common["params"] == [*criterion.adapter.parameters()] and common["lr"] == 0.1
    assert own["params"] == [*criterion.critic.parameters()] and (own["lr"], own["weight_decay"]) == (0.5, 0.25)


def test_without_such_a_part_the_groups_are_what_they_were():
    criterion = nn.Linear(2, 2)
    groups = [{"params": [p], "weight_decay": 0.1} for p in criterion.parameters()]
    assert override_groups(criterion) == [] and without_overrides(groups, []) == groups


def test_a_group_that_is_left_empty_is_dropped():
    criterion = Term()
    assert without_overrides([{"params": [criterion.critic.weight]}], override_groups(criterion)) == []


def test_frozen_parameters_are_left_out():
    criterion = Term()
    criterion.critic.bias.requires_grad_(False)
    assert override_groups(criterion)[0]["params"] == [criterion.critic.weight]


@pytest.mark.parametrize(("clip", "norm"), [(0.0, 27**0.5), (0.5, 0.5)])
def test_a_group_is_clipped_by_its_own_norm_and_the_others_are_returned_untouched(clip, norm):
    criterion = Term(clip)
    common = clip_overrides(graded(criterion))
    assert common == [*criterion.adapter.parameters()]
    assert all((p.grad == 3).all() for p in common)
    found = torch.cat([p.grad.flatten() for p in criterion.critic.parameters()])
    assert found.norm().item() == pytest.approx(norm, rel=1e-4)
