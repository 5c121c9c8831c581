"""A critic trained by Detectron2: groups and clipping of its own, its numbers in the log, exact resuming."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import json

import torch

from kd2.distill import Distiller, FeatureSpec, LossConfig, Schedule
from kd2.engine.detectron2.solver import clipped_optimizer
from kd2.losses.holistic import Holistic

from ...helpers.d2_tiny import different, load_config, previous, student_of, train, weights, write_config, write_pair

TAPS = ["fpn=backbone", "body=backbone.bottom_up:res3"]
BLOCK = {"TAP": "body", "WEIGHT": 0.1, "ENLARGE": 8, "WIDTH": 2, "CLIP": 1.0}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Config and folder of a run with a critic."""
    folder = tmp_path_factory.mktemp("critic")
    pair = write_pair(folder, data, {"KD": {"TAPS": TAPS, "LOSSES": {"holistic": BLOCK}}})
    train(pair)
    return pair, folder / "out"


def test_losses_and_stats_of_the_critic_are_logged(finished):
    lines = [json.loads(line) for line in (finished[1] / "metrics.json").read_text().splitlines()]
    wanted = {"loss_holistic_student", "loss_holistic_critic", "holistic/distance", "holistic/gradient_penalty"}
    assert wanted <= set().union(*lines)


def test_the_stats_are_no_part_of_the_total(finished):
    line = json.loads((finished[1] / "metrics.json").read_text().splitlines()[-1])
    losses = [value for name, value in line.items() if name.startswith("loss_")]
    assert line["total_loss"] == pytest.approx(sum(losses), rel=0.05)  # each is a median over the iterations


def test_a_resumed_run_has_the_same_critic_and_optimizer_state(finished):
    pair, folder = finished
    whole, solver = weights(folder), momenta(folder)
    previous(folder)
    torch.manual_seed(12345)
    train(pair, resume=True)
    assert any(name.endswith("critic.convs.0.u") for name in whole)
    assert different(weights(folder), whole) == [] and different(momenta(folder), solver) == []


def momenta(folder) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "model_final.pth", weights_only=True)["optimizer"]["state"]
    return {str(number): entry["momentum_buffer"] for number, entry in state.items()}


@pytest.mark.parametrize("clip", ["value", "norm", "full_model", None])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_critic_is_clipped_by_its_own_norm_and_the_student_without_it(data, tmp_path, name, clip):
    options = ["SOLVER.OPTIMIZER", name, "SOLVER.CLIP_GRADIENTS.ENABLED", str(clip is not None)]
    if clip:
        options += ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"]
    cfg = load_config(write_config(tmp_path, data), options)
    specs = [FeatureSpec(3, (64, 64), (1, 1))]
    student, loss = student_of(cfg), Holistic(specs, specs, width=2, lr=0.25, weight_decay=0.125, clip=2.0)
    optimizer = clipped_optimizer(cfg, distiller(student, holistic=loss))
    first = next(p for p in student.parameters() if p.requires_grad)
    for p in [*student.parameters(), *loss.parameters()]:
        p.grad = torch.zeros_like(p)
    first.grad.flatten()[0] = 1.0
    for p in loss.parameters():
        p.grad.fill_(1e3)
    optimizer.step()
    assert first.grad.norm().item() == pytest.approx(0.5 if clip else 1.0, rel=1e-4)
    assert torch.cat([p.grad.flatten() for p in loss.parameters()]).norm().item() == pytest.approx(2.0, rel=1e-4)
    own = optimizer.param_groups[-1]
    assert own["params"] == list(loss.parameters()) and (own["lr"], own["weight_decay"]) == (0.25, 0.125)


def test_a_run_without_clipping_has_the_plain_optimizer(data, tmp_path):
    cfg = load_config(write_config(tmp_path, data))
    model = distiller(student_of(cfg), a=torch.nn.Linear(2, 2))
    assert type(clipped_optimizer(cfg, model)) is torch.optim.SGD


def distiller(student: torch.nn.Module, **losses: torch.nn.Module) -> Distiller:
    return Distiller(student, losses=losses, configs={name: LossConfig("x", Schedule(1.0)) for name in losses})
