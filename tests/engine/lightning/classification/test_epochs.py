"""Optimizers and schedules of timm, epochs as iterations."""

import json
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("torchvision", reason="needs torchvision")

import numpy as np
import torch
from kd2.engine.lightning.classification.solver import build_lr_scheduler, build_optimizer, write_iterations

from kd2.config import merge, timm_config
from kd2.distill import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden" / "funmatch"


def config(**solver):
    return merge(timm_config(), {"SOLVER": solver})


def rates(cfg, steps: list[int]) -> list[float]:
    optimizer = build_optimizer(cfg, [{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    scheduler, found = build_lr_scheduler(cfg, optimizer), []
    for step in steps:
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_cosine_schedule_is_that_of_function_matching():
    about = json.loads((GOLDEN / "schedule_cosine.json").read_text())["hyper_parameters"]
    cfg = config(MAX_ITER=about["total_steps"], WARMUP_ITERS=about["warmup_steps"], BASE_LR=about["base"])
    case = np.load(GOLDEN / "schedule_cosine.npz")
    assert rates(cfg, case["in.step"].tolist()) == pytest.approx(case["out.multiplier"].tolist(), abs=1e-6)


def test_steps_fall_at_their_iterations():
    cfg = config(MAX_ITER=10, STEPS=[4, 8], BASE_LR=1.0, LR_SCHEDULER_NAME="WarmupMultiStepLR")
    assert rates(cfg, [0, 3, 4, 7, 8, 9]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_warm_up_is_a_straight_line():
    cfg = config(MAX_ITER=10, WARMUP_ITERS=4, WARMUP_FACTOR=0.5, BASE_LR=1.0, LR_SCHEDULER_NAME="WarmupPolyLR")
    assert rates(cfg, [0, 1, 2, 4]) == pytest.approx([0.5, 0.625, 0.75, 1.0])


def test_epochs_become_iterations():
    cfg = config(MAX_EPOCHS=10, STEPS_EPOCHS=[5, 7.5], WARMUP_EPOCHS=0.5, CHECKPOINT_EPOCHS=2, IMS_PER_BATCH=50)
    cfg.TEST.EVAL_EPOCHS = 1.0
    write_iterations(cfg, 1020)
    solver = cfg.SOLVER
    found = solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD
    assert found == (204, [102, 153], 10, 41, 20)


def test_without_epochs_iterations_stay():
    cfg = config(MAX_ITER=77, WARMUP_ITERS=3)
    write_iterations(cfg, 1020)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (77, 3)


def test_negative_epochs_are_refused():
    with pytest.raises(ConfigError, match="^SOLVER.MAX_EPOCHS is -1.0, expected 0 or more$"):
        write_iterations(config(MAX_EPOCHS=-1), 1020)


def test_adamw_takes_decay_times_learning_rate_away():
    """So the paper's decay of 1e-3 a step at a rate of 1e-2 is WEIGHT_DECAY 0.1."""
    cfg = config(OPTIMIZER="AdamW", BASE_LR=1e-2)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer(cfg, [{"params": [weight], "weight_decay": 0.1}])
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_nesterovs_only_when_asked(nesterov):
    optimizer = build_optimizer(config(NESTEROV=nesterov), [{"params": [torch.nn.Parameter(torch.ones(1))]}])
    assert optimizer.param_groups[0]["nesterov"] is nesterov


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ConfigError, match="^SOLVER.OPTIMIZER is 'adamx'; did you mean "):
        build_optimizer(config(OPTIMIZER="adamx"), [{"params": [torch.nn.Parameter(torch.ones(1))]}])


def test_an_argument_that_the_optimizer_does_not_take_is_named():
    cfg = config(OPTIMIZER="AdamW", OPTIMIZER_ARGS={"beta": 0.9})
    with pytest.raises(ConfigError, match="^SOLVER.OPTIMIZER_ARGS: AdamW cannot be built with {'beta': 0.9}: "):
        build_optimizer(cfg, [{"params": [torch.nn.Parameter(torch.ones(1))]}])


def test_an_unknown_schedule_is_named():
    cfg = config(LR_SCHEDULER_NAME="WarmupCosine")
    optimizer = build_optimizer(cfg, [{"params": [torch.nn.Parameter(torch.ones(1))]}])
    with pytest.raises(ConfigError, match="^SOLVER.LR_SCHEDULER_NAME is 'WarmupCosine'; did you mean WarmupCosineLR"):
        build_lr_scheduler(cfg, optimizer)
