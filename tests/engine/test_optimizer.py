"""Optimizer and gradient clipping of SOLVER."""

import pytest
import torch
from torch import nn

from kd2.config import defaults_of, merge
from kd2.distill import ConfigError
from kd2.engine.optimizer import build_optimizer, clip_gradients


def built(decay: float = 0.0, **solver) -> torch.optim.Optimizer:
    """The optimizer of one parameter that is 1."""
    cfg = merge(defaults_of("timm"), {"SOLVER": solver})
    return build_optimizer(cfg.SOLVER, [{"params": [nn.Parameter(torch.ones(1))], "weight_decay": decay}])


@pytest.mark.parametrize(("name", "kind"), [("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)])
def test_pytorchs_optimizers_are_chosen_by_name(name, kind):
    assert type(built(OPTIMIZER=name)) is kind


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_nesterovs_only_when_asked(nesterov):
    assert built(OPTIMIZER="SGD", NESTEROV=nesterov).param_groups[0]["nesterov"] is nesterov


def test_adamw_takes_decay_times_learning_rate_away():
    """So function matching's decay of 1e-3 a step at a rate of 1e-2 is WEIGHT_DECAY 0.1."""
    optimizer = built(decay=0.1, OPTIMIZER="AdamW", BASE_LR=1e-2)
    (weight,) = optimizer.param_groups[0]["params"]
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 1e-3)


def test_other_names_are_timms():
    lamb = pytest.importorskip("timm.optim", reason="needs timm").Lamb
    assert type(built(OPTIMIZER="lamb")) is lamb


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ConfigError, match="^SOLVER.OPTIMIZER is 'adamx'; did you mean "):
        built(OPTIMIZER="adamx")


def test_an_argument_that_the_optimizer_does_not_take_is_named():
    with pytest.raises(ConfigError, match="^SOLVER.OPTIMIZER_ARGS: AdamW cannot be built with {'beta': 0.9}: "):
        built(OPTIMIZER="AdamW", OPTIMIZER_ARGS={"beta": 0.9})


def clipped(kind: str, enabled: bool = True) -> list[list[float]]:
    """Gradients (3, 4) and (0, 12) clipped at 1."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])
    clip = {"ENABLED": enabled, "CLIP_TYPE": kind, "CLIP_VALUE": 1.0}
    cfg = merge(defaults_of("timm"), {"SOLVER": {"CLIP_GRADIENTS": clip}})
    clip_gradients([{"params": parameters}], cfg.SOLVER.CLIP_GRADIENTS)
    return [p.grad.tolist() for p in parameters]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("value", [[1.0, 1.0], [0.0, 1.0]]),
        ("norm", [[0.6, 0.8], [0.0, 1.0]]),
        ("full_model", [[3 / 13, 4 / 13], [0.0, 12 / 13]]),
    ],
)
def test_entries_tensors_or_the_whole_model_are_clipped(kind, expected):
    assert [x for row in clipped(kind) for x in row] == pytest.approx([x for row in expected for x in row], abs=1e-5)


def test_clipping_can_be_off():
    assert clipped("value", enabled=False) == [[3.0, 4.0], [0.0, 12.0]]
