"""The networks of every timm config below configs/ can be built, tapped, distilled and optimized."""

from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the timm configs need timm")
pytest.importorskip("lightning", reason="the timm configs need lightning")

import torch

from kd2.config import framework_of, load, load_teacher_config, read, taps_of
from kd2.config.epochs import write_iterations
from kd2.distill import Probe, probed
from kd2.engine.lightning.classification.models import build_model
from kd2.engine.lightning.solver import build_lr_scheduler
from kd2.engine.optimizer import build_optimizer
from kd2.losses import active_losses, build_losses

ROOT = Path(__file__).parents[2] / "configs"
FILES = [p for p in sorted(ROOT.rglob("*.yaml")) if framework_of(read(str(p)), str(p)) == "timm"]
RUNS = [p for p in FILES if not p.name.startswith("Base")]

every_run = pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(ROOT)))


def config_of(path: Path):
    cfg = load(str(path))
    cfg.MODEL.PRETRAINED = False
    return cfg


def test_there_are_configs():
    assert {path.parent.name for path in RUNS} == {"cifar10", "flowers102", "imagenet"}


@every_run
def test_networks_taps_and_losses_fit(path):
    """On tensors without data, so that the big ones cost nothing."""
    cfg = config_of(path)
    blocks = active_losses(cfg.KD.LOSSES)
    assert blocks or cfg.KD.TASK_WEIGHT
    if not blocks:
        return
    own = load_teacher_config(cfg)
    own.MODEL.PRETRAINED = False
    assert own.MODEL.NUM_CLASSES == cfg.MODEL.NUM_CLASSES
    with torch.device("meta"):
        student, teacher = (taps(its, taps_of(cfg, side)[0]) for its, side in ((cfg, "STUDENT"), (own, "TEACHER")))
        losses, _ = build_losses(blocks, student.specs, teacher.specs)
    assert set(losses) == set(blocks)


def taps(cfg, names: list[str]):
    size = cfg.INPUT.SIZE
    model = build_model(cfg)
    return probed(model, list(names), Probe(lambda: model(torch.zeros(1, 3, size, size)), (size, size)), "TAPS")


@every_run
def test_its_solver_builds(path):
    cfg = config_of(path)
    write_iterations(cfg, 1020)
    optimizer = build_optimizer(cfg.SOLVER, [{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    assert build_lr_scheduler(cfg, optimizer).optimizer is optimizer
