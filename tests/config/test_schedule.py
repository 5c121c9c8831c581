"""What the keys of time say together."""

import pytest

from kd2.config import defaults_of, merge
from kd2.config.load import check
from kd2.config.schedule import scaled_config, without_effect
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


REFERENCE = {"REFERENCE_WORLD_SIZE": 4, "IMS_PER_BATCH": 16, "BASE_LR": 0.1, "BASE_LR_END": 0.01, "MAX_ITER": 1000}
LENGTHS = {"STEPS": [500, 801], "WARMUP_ITERS": 0, "CHECKPOINT_PERIOD": 1}


def test_twice_the_processes_take_twice_the_images_and_rates_and_half_the_iterations():
    solver = scaled_config(config(REFERENCE | LENGTHS), 8).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.BASE_LR_END) == (32, 0.2, 0.02)
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD) == (500, [250, 400], 0, 1)
    assert solver.REFERENCE_WORLD_SIZE == 8


def test_half_of_them_take_half_and_twice():
    solver = scaled_config(config(REFERENCE | LENGTHS), 2).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (8, 0.05, 2000)


def test_the_iterations_of_losses_follow_the_length_of_the_run():
    losses = {"mgd": {"START_ITER": 400, "RAMP_ITERS": 102, "STOP_ITER": 1000}, "hint": {"STOP_ITER": -1}}
    scaled = scaled_config(config(REFERENCE, losses), 8).KD.LOSSES
    assert scaled.mgd == {"START_ITER": 200, "RAMP_ITERS": 51, "STOP_ITER": 500}
    assert scaled.hint == {"STOP_ITER": -1}


@pytest.mark.parametrize(("start", "stop", "scaled"), [(11, 12, (6, 7)), (1, 3, (1, 2)), (0, 1, (0, 1))])
def test_rounding_leaves_a_loss_an_iteration(start, stop, scaled):
    losses = {"mgd": {"START_ITER": start, "STOP_ITER": stop}}
    found = scaled_config(config(REFERENCE, losses), 8).KD.LOSSES.mgd
    assert (found["START_ITER"], found["STOP_ITER"]) == scaled


def test_unlabeled_images_follow_the_batch():
    cfg = config(REFERENCE)
    cfg.KD.UNLABELED.IMS_PER_BATCH = 8
    assert scaled_config(cfg, 8).KD.UNLABELED.IMS_PER_BATCH == 16


@pytest.mark.parametrize(("reference", "processes"), [(0, 8), (4, 4)])
def test_a_run_as_the_config_is_written_for_is_left_alone(reference, processes):
    cfg = config(REFERENCE | {"REFERENCE_WORLD_SIZE": reference})
    assert scaled_config(cfg, processes) is cfg


def test_a_reference_that_does_not_divide_the_batch_is_refused():
    cfg = config(REFERENCE | {"REFERENCE_WORLD_SIZE": 3})
    with pytest.raises(
        ConfigError, match="^SOLVER.REFERENCE_WORLD_SIZE is 3, expected a divisor of SOLVER.IMS_PER_BATCH, 16$"
    ):
        scaled_config(cfg, 1)


def test_a_start_from_a_teacher_that_no_loss_needs_is_told():
    cfg = config({"MAX_ITER": 40000}, {"mgd": {"WEIGHT": 0}})
    cfg.KD.INIT_FROM_TEACHER = "neck"
    assert list(without_effect(cfg)) == [
        "KD.INIT_FROM_TEACHER has no effect: no loss of KD.LOSSES counts, so no teacher is read"
    ]
