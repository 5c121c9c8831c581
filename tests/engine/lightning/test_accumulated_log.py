"""The log of a run that accumulates gradients: losses and time are those of a step of the optimizer."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from types import SimpleNamespace

import torch

from kd2.distill import Distiller
from kd2.engine.lightning import trainer
from kd2.report.logs import read_log

from ...helpers import lightning_runs as runs
from ...helpers import tiny_detection


def test_the_log_has_the_means_of_a_step(task, tmp_path):
    changes = {"SOLVER": {"ACCUMULATE": 3, "MAX_ITER": 20, "CHECKPOINT_PERIOD": 100}}
    seen: list[dict[str, float]] = []

    def watch(module, _batch, found):
        if isinstance(module, Distiller) and module.training:
            seen.append({name: loss.item() for name, loss in found.items()})

    with torch.nn.modules.module.register_module_forward_hook(watch):
        runs.train(task.write_config(tmp_path, changes))
    (line,) = (row for row in read_log(str(tmp_path / "out")) if "total_loss" in row)
    means = {name: sum(losses[name] for losses in seen[-3:]) / 3 for name in seen[-1]}
    assert {name: x for name, x in line.items() if name in means} == pytest.approx(means, rel=1e-5)
    assert line["total_loss"] == pytest.approx(sum(means.values()), rel=1e-5)


@pytest.mark.parametrize("batches", [1, 3])
def test_the_logged_time_is_that_of_a_step_of_the_optimizer(data, tmp_path, monkeypatch, batches):
    """By a clock on which every batch takes a second."""
    clock, forward = [0.0], Distiller.forward

    def watched(self, batch):
        clock[0] += self.training
        return forward(self, batch)

    monkeypatch.setattr(Distiller, "forward", watched)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    solver = {"ACCUMULATE": batches, "MAX_ITER": 40, "CHECKPOINT_PERIOD": 100}
    config = tiny_detection.write_config(tmp_path, data, {"SOLVER": solver})
    runs.train(config, "SOLVER.MAX_ITER", "22")
    runs.train(config, resume=True)
    times = {row["step"]: row["time"] for row in read_log(str(tmp_path / "out")) if "time" in row}
    assert times == {19.0: batches, 39.0: batches}
