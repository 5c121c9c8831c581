"""What distillation trains beside the student: adapters, and parts of a loss with a solver of their own."""

import pytest
import torch
from torch import nn

from kd2.distill import (
    Distiller,
    LossConfig,
    ParameterGroupOverride,
    Schedule,
    clip_overrides,
    loss_groups,
    override_groups,
)


class Loss(nn.Module):
    def __init__(self, clip: float = 0.0):
        super().__init__()
        self.adapter, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)
        self.critic.parameter_group = ParameterGroupOverride(lr=0.5, weight_decay=0.25, clip=clip)


def of(module: nn.Module) -> list[dict]:
    return [{"params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.125}]


def graded(losses: dict[str, nn.Module], value: float = 3.0) -> list[dict]:
    """Groups of an optimizer over a student and losses, every gradient being ``value``."""
    student = nn.Linear(3, 3)
    for p in [*student.parameters(), *nn.ModuleDict(losses).parameters()]:
        p.grad = torch.full_like(p, value)
    groups = of(student) + loss_groups(nn.ModuleDict(losses), dict.fromkeys(losses, 2.0), of)
    return torch.optim.SGD(groups).param_groups


def norm(module: nn.Module) -> float:
    return torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item()


def test_a_part_with_a_solver_has_a_group_and_leaves_the_others():
    loss = Loss()
    _, adapters, own = graded({"a": loss})
    assert adapters["params"] == [*loss.adapter.parameters()]
    assert (adapters["lr"], adapters["weight_decay"]) == (0.2, 0.125)
    assert own["params"] == [*loss.critic.parameters()] and (own["lr"], own["weight_decay"]) == (0.5, 0.25)


def test_a_loss_without_parameters_has_no_group():
    assert loss_groups(nn.ModuleDict({"a": nn.Identity()}), {"a": 1.0}, of) == []


def test_frozen_parameters_are_left_out():
    loss = Loss()
    loss.critic.bias.requires_grad_(False)
    assert override_groups(loss)[0]["params"] == [loss.critic.weight]


def test_the_adapters_of_each_loss_are_clipped_together_and_apart_from_the_student():
    losses = {"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "b": nn.Linear(4, 4)}
    groups = graded(losses)
    assert clip_overrides(groups) == groups[0]["params"]
    assert norm(losses["a"]) == pytest.approx(1.0, rel=1e-4) and norm(losses["b"]) == pytest.approx(1.0, rel=1e-4)
    assert all((p.grad == 3).all() for p in groups[0]["params"])


def test_small_gradients_of_adapters_stay_as_they_are():
    losses = {"b": nn.Linear(2, 2)}
    clip_overrides(graded(losses, 0.01))
    assert all((p.grad == 0.01).all() for p in losses["b"].parameters())


@pytest.mark.parametrize(("clip", "expected"), [(0.0, 27**0.5), (0.5, 0.5)])
def test_a_part_with_a_solver_is_clipped_by_its_own_norm(clip, expected):
    loss = Loss(clip)
    clip_overrides(graded({"a": loss}))
    assert norm(loss.critic) == pytest.approx(expected, rel=1e-4)


def test_an_optimizer_over_a_distiller_has_the_adapters_at_their_own_rate_and_all_that_is_trained():
    losses = {"a": Loss(), "b": nn.Linear(2, 2)}
    losses["b"].bias.requires_grad_(False)
    configs = {name: LossConfig("x", Schedule(1.0), adapter_lr=rate) for name, rate in (("a", 5.0), ("b", 1.0))}
    model = Distiller(nn.Linear(3, 3), losses=losses, configs=configs)
    groups = torch.optim.AdamW(model.parameter_groups(0.1)).param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    expected = {model.student: 0.1, losses["a"].adapter: 0.5, losses["a"].critic: 0.5, losses["b"]: 0.1}
    assert rates == {
        p: pytest.approx(lr) for part, lr in expected.items() for p in part.parameters() if p.requires_grad
    }
