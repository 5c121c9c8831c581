"""The solver keys as schedule and parameter groups."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import torch
from torch import nn

from kd2.engine.lightning.solver import build_lr_scheduler, parameter_groups
from kd2.engine.optimizer import build_optimizer
from kd2.networks.level_norm import LevelBatchNorm

from ...helpers import tiny_detection

GOLDEN = Path(__file__).parents[2] / "golden" / "funmatch"


def rates(**solver) -> list[float]:
    """The learning rate of every iteration, and the one behind the last."""
    base = {"BASE_LR": 1.0, "MAX_ITER": 10, "WARMUP_ITERS": 0, "STEPS": [], "GAMMA": 0.5}
    cfg = tiny_detection.config({"SOLVER": base | solver})
    optimizer = build_optimizer(cfg.SOLVER, [{"params": [nn.Parameter(torch.zeros(1))]}])
    scheduler = build_lr_scheduler(cfg, optimizer)
    seen = list(scheduler.get_last_lr())
    for _ in range(cfg.SOLVER.MAX_ITER):
        optimizer.step(), scheduler.step()
        seen += scheduler.get_last_lr()
    return seen


def test_steps_multiply_by_gamma():
    assert rates(STEPS=[4, 7]) == [1.0] * 4 + [0.5] * 3 + [0.25] * 4


def test_steps_behind_the_end_do_not_count():
    assert rates(STEPS=[4, 7, 30000]) == [1.0] * 4 + [0.5] * 3 + [0.25] * 4


def test_warm_up_is_a_straight_line():
    assert rates(WARMUP_ITERS=4, WARMUP_FACTOR=0.2)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_run_shorter_than_its_warm_up_only_warms_up():
    assert rates(WARMUP_ITERS=1000, WARMUP_FACTOR=0.0, STEPS=[30000]) == pytest.approx([i / 10 for i in range(11)])


def test_cosine_ends_at_its_end_value():
    seen = rates(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.25, MAX_ITER=100)
    assert (seen[0], seen[50], seen[100]) == pytest.approx((1.0, 0.625, 0.25))


def test_the_decay_can_begin_behind_the_warm_up():
    warmup = {"WARMUP_ITERS": 20, "WARMUP_FACTOR": 0.0, "RESCALE_INTERVAL": True}
    seen = rates(LR_SCHEDULER_NAME="WarmupCosineLR", MAX_ITER=100, **warmup)
    assert [seen[i] for i in (0, 10, 20, 60, 100)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_the_cosine_behind_its_warm_up_is_that_of_function_matching():
    about = json.loads((GOLDEN / "schedule_cosine.json").read_text())["hyper_parameters"]
    length = {"MAX_ITER": about["total_steps"], "WARMUP_ITERS": about["warmup_steps"], "BASE_LR": about["base"]}
    shape = {"LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_FACTOR": 0.0, "RESCALE_INTERVAL": True}
    seen = rates(**length, **shape)
    with np.load(GOLDEN / "schedule_cosine.npz") as case:
        steps, expected = case["in.step"].tolist(), case["out.multiplier"].tolist()
    assert [seen[step] for step in steps] == pytest.approx(expected, abs=1e-6)


def test_poly_falls_with_its_power():
    assert rates(LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=2.0)[5] == pytest.approx(0.25)


def test_poly_warms_up_to_where_it_is_by_then():
    shape = {"LR_SCHEDULER_NAME": "WarmupPolyLR", "POLY_LR_POWER": 1.0, "WARMUP_ITERS": 5, "WARMUP_FACTOR": 0.0}
    assert rates(**shape)[:6] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_poly_ends_at_its_end_value():
    seen = rates(LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=1.0, BASE_LR_END=0.5)
    assert (seen[0], seen[5], seen[10]) == pytest.approx((1.0, 0.75, 0.5))


def test_a_run_without_a_learning_rate_has_a_schedule():
    assert rates(BASE_LR=0.0, LR_SCHEDULER_NAME="WarmupCosineLR")[0] == 0.0


def decays(**solver) -> dict[str, float]:
    """Weight decay by parameter of a small network."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    net[0].requires_grad_(solver.pop("trained", True))
    names = {id(p): name for name, p in net.named_parameters()}
    groups = parameter_groups(
        net, tiny_detection.config({"SOLVER": {"WEIGHT_DECAY": 0.5, "WEIGHT_DECAY_NORM": 0.25} | solver})
    )
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


def test_norm_layers_have_their_own_decay():
    assert decays() == {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 0.25, "1.bias": 0.25}


def test_the_weight_of_a_norm_by_level_is_a_norms():
    groups = parameter_groups(LevelBatchNorm(4, 2), tiny_detection.config({"SOLVER": {"WEIGHT_DECAY_NORM": 0.25}}))
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.25)]


def test_biases_may_have_their_own_decay():
    assert decays(WEIGHT_DECAY_BIAS=0.0)["0.bias"] == 0.0


def test_frozen_parameters_are_left_out():
    assert set(decays(trained=False)) == {"1.weight", "1.bias"}
