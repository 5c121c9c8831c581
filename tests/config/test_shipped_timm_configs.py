"""Every timm config below configs/ is one that training would accept."""

from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the timm configs need timm")
pytest.importorskip("lightning", reason="the timm configs need lightning")

import torch

from kd2.engine.lightning.classification.models import build_model
from kd2.engine.lightning.classification.solver import build_lr_scheduler, build_optimizer, write_iterations
from kd2.config import framework_of, merge, read, resolve_teacher, teacher_file, timm_config
from kd2.distill import probed
from kd2.data.classification.views import MODES
from kd2.losses.registry import active_losses, build_losses

ROOT = Path(__file__).parents[2] / "configs"
FILES = [p for p in sorted(ROOT.rglob("*.yaml")) if framework_of(read(str(p)), str(p)) == "timm"]
RUNS = [p for p in FILES if not p.name.startswith("Base")]

every_run = pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(ROOT)))


def config_of(path: Path):
    cfg = merge(timm_config(), read(str(path)))
    resolve_teacher(cfg, str(path))
    cfg.MODEL.PRETRAINED = False
    return cfg


def test_there_are_configs():
    assert {path.parent.name for path in RUNS} == {"cifar10", "flowers102", "imagenet"}


@every_run
def test_networks_taps_and_losses_fit(path):
    """On tensors without data, so that the big ones cost nothing."""
    cfg = config_of(path)
    blocks = active_losses(cfg.KD.LOSSES)
    assert cfg.KD.VIEWS.MODE in MODES and (blocks or cfg.KD.TASK_WEIGHT)
    if not blocks:
        return
    own = config_of(Path(cfg.KD.TEACHER.CONFIG_FILE))
    assert own.MODEL.NUM_CLASSES == cfg.MODEL.NUM_CLASSES
    with torch.device("meta"):
        student, teacher = (
            taps(side, names) for side, names in ((cfg, cfg.KD.STUDENT.TAPS), (own, cfg.KD.TEACHER.TAPS))
        )
        losses, _ = build_losses(blocks, student.specs, teacher.specs)
    assert set(losses) == set(blocks)


def taps(cfg, names: list[str]):
    size = cfg.INPUT.SIZE
    model = build_model(cfg)
    return probed(model, list(names), lambda: model(torch.zeros(1, 3, size, size)), (size, size), "TAPS")


@every_run
def test_its_solver_builds(path):
    cfg = config_of(path)
    write_iterations(cfg, 1020)
    optimizer = build_optimizer(cfg, [{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    assert build_lr_scheduler(cfg, optimizer).optimizer is optimizer


@every_run
def test_the_teacher_and_all_further_ones_have_config_files(path):
    cfg = config_of(path)
    further = [block["CONFIG_FILE"] for block in cfg.KD.TEACHER.MORE.values()]
    files = [cfg.KD.TEACHER.CONFIG_FILE, *further] if active_losses(cfg.KD.LOSSES) else []
    assert all(teacher_file(name, str(path)) for name in files)
