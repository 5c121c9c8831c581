"""Parts of a term with a solver of their own."""

import pytest
import torch
from torch import nn

from kd2.core import OwnSolver, clip_own, common_groups, own_groups


class Term(nn.Module):
    def __init__(self, clip: float = 0.0):
        super().__init__()
        self.adapter, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        self.critic.own_solver = OwnSolver(lr=0.5, weight_decay=0.25, clip=clip)


def graded(term: Term, value: float = 3.0) -> list[dict]:
    """Groups of an optimiser over the term, every gradient being ``value``."""
    for p in term.parameters():
        p.grad = torch.full_like(p, value)
    own = own_groups(term)
    optimizer = torch.optim.SGD(common_groups([{"params": list(term.parameters())}], own) + own, lr=0.1)
    return optimizer.param_groups


def test_a_part_with_a_solver_has_a_group_and_leaves_the_others():
    term = Term()
    common, own = graded(term)
    assert common["params"] == [*term.adapter.parameters()] and common["lr"] == 0.1
    assert own["params"] == [*term.critic.parameters()] and (own["lr"], own["weight_decay"]) == (0.5, 0.25)


def test_without_such_a_part_the_groups_are_what_they_were():
    term = nn.Linear(2, 2)
    groups = [{"params": [p], "weight_decay": 0.1} for p in term.parameters()]
    assert own_groups(term) == [] and common_groups(groups, []) == groups


def test_a_group_that_is_left_empty_is_dropped():
    term = Term()
    assert common_groups([{"params": [term.critic.weight]}], own_groups(term)) == []


def test_frozen_parameters_are_left_out():
    term = Term()
    term.critic.bias.requires_grad_(False)
    assert own_groups(term)[0]["params"] == [term.critic.weight]


@pytest.mark.parametrize(("clip", "norm"), [(0.0, 27**0.5), (0.5, 0.5)])
def test_a_group_is_clipped_by_its_own_norm_and_the_others_are_returned_untouched(clip, norm):
    term = Term(clip)
    common = clip_own(graded(term))
    assert common == [*term.adapter.parameters()]
    assert all((p.grad == 3).all() for p in common)
    found = torch.cat([p.grad.flatten() for p in term.critic.parameters()])
    assert found.norm().item() == pytest.approx(norm, rel=1e-4)
