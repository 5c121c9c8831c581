"""Lengths given in epochs as iterations."""

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

from kd2.config.epochs import write_iterations

from ..helpers import tiny_classification as tiny


def test_epochs_become_iterations():
    epochs = {"MAX_EPOCHS": 10, "STEPS_EPOCHS": [5, 7.5], "WARMUP_EPOCHS": 0.5, "CHECKPOINT_EPOCHS": 2}
    cfg = tiny.config({"SOLVER": epochs | {"IMS_PER_BATCH": 50}, "TEST": {"EVAL_EPOCHS": 1.0}})
    write_iterations(cfg, 1020)
    solver = cfg.SOLVER
    found = solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD
    assert found == (204, [102, 153], 10, 41, 20)


def test_without_epochs_iterations_stay():
    cfg = tiny.config({"SOLVER": {"MAX_ITER": 77, "WARMUP_ITERS": 3}})
    write_iterations(cfg, 1020)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (77, 3)
