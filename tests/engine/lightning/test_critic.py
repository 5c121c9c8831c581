"""A critic trained by Lightning: groups and clipping of its own, its numbers in the log, exact resuming."""

import csv
import functools

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from fvcore.common.config import CfgNode

from kd2.distill import FeatureSpec, loss_groups
from kd2.engine.lightning.solver import build_lr_scheduler, parameter_groups
from kd2.engine.optimizer import build_optimizer
from kd2.losses.holistic import Holistic

from ...helpers import lightning_runs as runs
from ...helpers import tiny_detection, tiny_segmentation

SOLVER = {"WEIGHT_DECAY": 0.0, "WARMUP_ITERS": 0, "STEPS": [], "MAX_ITER": 2, "CHECKPOINT_PERIOD": 1}


def write(folder, data, teacher, solver: dict, **block) -> str:
    """Config of a run with a critic on a map of the backbone."""
    taps = {"TAPS": ["body=backbone.body:0"]}
    losses = {"imitation": {"WEIGHT": 0.0}, "holistic": tiny_detection.EVERY_LOSS["holistic"] | {"WEIGHT": 1.0} | block}
    changes = {"KD": {"STUDENT": taps, "TEACHER": taps, "LOSSES": losses}, "SOLVER": SOLVER | solver}
    return tiny_detection.write_config(folder, data, tiny_detection.distilled(teacher, changes))


def moved(folder) -> dict[str, float]:
    """Largest change of a weight between the first and the second step: of the student, of the critic."""
    before, after = (runs.checkpoint(folder / "out", step) for step in (1, 2))
    found = {}
    for part in ("model", "adapters"):
        trained = [name for name in before[part] if name.endswith(("weight", "bias"))]
        found[part] = max((after[part][name] - before[part][name]).abs().max().item() for name in trained)
    return found


@pytest.mark.parametrize(("kind", "half"), [("full_model", False), ("value", True)])
def test_the_runs_clipping_leaves_the_critic_alone(tmp_path, data, teacher, kind, half):
    clip = {"ENABLED": True, "CLIP_TYPE": kind, "CLIP_VALUE": 1e-12}
    runs.train(write(tmp_path, data, teacher, {"CLIP_GRADIENTS": clip, "AMP": {"ENABLED": half, "PRECISION": "bf16"}}))
    found = moved(tmp_path)
    assert found["model"] < 1e-9 and found["adapters"] > 1e-6


def test_the_critics_clipping_leaves_the_student_alone(tmp_path, data, teacher):
    runs.train(write(tmp_path, data, teacher, {}, CLIP=1e-12, WEIGHT_DECAY=0.0))
    found = moved(tmp_path)
    assert found["model"] > 1e-6 and found["adapters"] < 1e-9


@pytest.fixture(scope="module")
def finished(tmp_path_factory, semantic_data, psp_teacher):
    """Config and folder of a segmentation run of 20 iterations with PI, PA and HO, and the lines of its log."""
    folder = tmp_path_factory.mktemp("critic")
    block = {"TAP": "score", "WEIGHT": 0.1, "CONDITION": "image", "ENLARGE": 11, "WIDTH": 2, "CLIP": 1.0}
    changes = {
        "KD": {"LOSSES": {"holistic": block}},
        "SOLVER": {"MAX_ITER": 20, "CHECKPOINT_PERIOD": 5, "LR_SCHEDULER_NAME": "WarmupPolyLR"},
    }
    config = tiny_segmentation.write_config(folder, semantic_data, tiny_segmentation.distilled(psp_teacher, changes))
    runs.train(config)
    with open(next((folder / "out" / "csv").rglob("metrics.csv"))) as file:
        return config, folder, list(csv.DictReader(file))


def test_losses_and_stats_of_the_critic_are_logged(finished):
    logged = {name for line in finished[2] for name, value in line.items() if value}
    wanted = {"loss_holistic_student", "loss_holistic_critic", "holistic/distance", "holistic/gradient_penalty"}
    assert wanted <= logged


def test_the_stats_are_no_part_of_the_total(finished):
    line = next(line for line in finished[2] if line["total_loss"])
    losses = [float(value) for name, value in line.items() if name.startswith("loss_") and value]
    assert float(line["total_loss"]) == pytest.approx(sum(losses), rel=1e-5)


def test_a_resumed_run_has_the_same_critic_optimizer_state_and_random_state(finished, tmp_path):
    config, folder, _ = finished
    runs.resumed(config, folder / "out", 15, tmp_path / "out")
    found = runs.checkpoint(tmp_path / "out", 20)
    assert runs.different(found, runs.checkpoint(folder / "out", 20)) == [".kd2.config"]  # OUTPUT_DIR
    assert {"holistic.critic.convs.0.u", "holistic.critic.norm.running_var"} <= found["adapters"].keys()


def test_the_runs_schedule_multiplies_the_critics_rate():
    solver = {"BASE_LR": 1.0, "MAX_ITER": 10, "WARMUP_ITERS": 0, "LR_SCHEDULER_NAME": "WarmupPolyLR"}
    cfg = tiny_detection.config({"SOLVER": solver})
    groups = parameter_groups(torch.nn.Linear(2, 2), cfg) + of_losses(critic(), cfg)
    optimizer = build_optimizer(cfg.SOLVER, groups)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(5):
        optimizer.step(), scheduler.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[-1] == pytest.approx(rates[0] / 4) and rates[0] == pytest.approx(0.5**0.9)


def test_the_critics_parameters_are_in_its_group_alone():
    cfg, holistic = tiny_detection.config(), critic(weight_decay=0.125)
    (group,) = of_losses(holistic, cfg)
    assert group["params"] == list(holistic.parameters()) and group["weight_decay"] == 0.125


def of_losses(loss: Holistic, cfg: CfgNode) -> list[dict]:
    return loss_groups(
        torch.nn.ModuleDict({"holistic": loss}), {"holistic": 5.0}, functools.partial(parameter_groups, cfg=cfg)
    )


def critic(**options) -> Holistic:
    specs = [FeatureSpec(3, (64, 64), (1, 1))]
    return Holistic(specs, specs, **{"width": 2, "lr": 0.25} | options)
