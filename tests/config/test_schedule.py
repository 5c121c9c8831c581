"""What the keys of time say together."""

import pytest

from kd2.config import defaults_of, merge
from kd2.config.load import check
from kd2.config.schedule import scale_losses, without_effect
from kd2.distill import ConfigError


def config(solver: dict, losses: dict | None = None, framework: str = "torchvision"):
    cfg = merge(defaults_of(framework), {"SOLVER": solver, "KD": {"LOSSES": losses or {}}})
    check(cfg, {}, defaults_of(framework))
    return cfg


@pytest.mark.parametrize("steps", [[20, 10], [10, 10]])
def test_steps_in_no_rising_order_are_refused(steps):
    with pytest.raises(ConfigError, match=rf"^SOLVER.STEPS is \[{steps[0]}, 10\], expected a rising order$"):
        config({"STEPS": steps})


def test_steps_in_epochs_too():
    with pytest.raises(ConfigError, match=r"^SOLVER.STEPS_EPOCHS is \[2, 1\], expected a rising order$"):
        config({"STEPS_EPOCHS": [2, 1]}, framework="timm")


def test_a_learning_rate_that_would_end_above_its_start_is_refused():
    with pytest.raises(ConfigError, match=r"^SOLVER.BASE_LR_END is 0.5, expected at most BASE_LR, 0.1$"):
        config({"BASE_LR": 0.1, "BASE_LR_END": 0.5})


def test_a_run_of_no_iterations_is_refused():
    with pytest.raises(ConfigError, match="^SOLVER.MAX_ITER is 0, expected a whole number above 0$"):
        config({"MAX_ITER": 0})


def test_what_counts_behind_the_end_only_is_told():
    losses = {
        "never": {"TYPE": "mgd", "START_ITER": 10},
        "partly": {"TYPE": "mgd", "START_ITER": 5, "RAMP_ITERS": 5},
        "fully": {"TYPE": "mgd", "START_ITER": 5, "RAMP_ITERS": 4},
        "off": {"TYPE": "mgd", "START_ITER": 50, "WEIGHT": 0},
    }
    assert list(without_effect(config({"MAX_ITER": 10, "STEPS": [9, 10, 30], "WARMUP_ITERS": 10}, losses))) == [
        "SOLVER.STEPS: [10, 30] have no effect, SOLVER.MAX_ITER is 10",
        "SOLVER.WARMUP_ITERS is 10: the learning rate never reaches BASE_LR, SOLVER.MAX_ITER is 10",
        "KD.LOSSES.never.START_ITER is 10: this loss never counts, SOLVER.MAX_ITER is 10",
        "KD.LOSSES.partly: START_ITER + RAMP_ITERS is 10: it never counts fully, SOLVER.MAX_ITER is 10",
    ]


def test_a_run_whose_keys_all_count_is_told_nothing():
    assert not list(without_effect(config({"MAX_ITER": 10, "STEPS": [9], "WARMUP_ITERS": 9}, {"mgd": {}})))


def test_the_iterations_of_losses_follow_the_length_of_the_run():
    cfg = config({}, {"mgd": {"START_ITER": 400, "RAMP_ITERS": 101, "STOP_ITER": 1000}, "hint": {"STOP_ITER": -1}})
    scale_losses(cfg, 0.5)
    assert cfg.KD.LOSSES.mgd == {"START_ITER": 200, "RAMP_ITERS": 50, "STOP_ITER": 500}
    assert cfg.KD.LOSSES.hint == {"STOP_ITER": -1}
