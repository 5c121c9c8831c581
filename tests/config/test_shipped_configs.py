"""Every torchvision config below configs/ is one that training would accept."""

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="the torchvision configs need torchvision")
pytest.importorskip("timm", reason="the torchvision configs need timm")

import torch

from kd2.bridges.tv.detection.models import BODY, build_detector, num_classes
from kd2.config import framework_of, merge, read, resolve_teacher, torchvision_config
from kd2.core import inherit
from kd2.terms import active_blocks

ROOT = Path(__file__).parents[2] / "configs"
FILES = [p for p in sorted(ROOT.rglob("*.yaml")) if framework_of(read(str(p)), str(p)) == "torchvision"]
RUNS = [p for p in FILES if not p.name.startswith("Base")]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
every_run = pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(ROOT)))


def config_of(path: Path):
    cfg = merge(torchvision_config(), read(str(path)))
    resolve_teacher(cfg, str(path))
    return cfg


def test_there_are_configs():
    assert ROOT / "bccd" / "imitation_torchvision.yaml" in RUNS


@every_file
def test_the_config_merges_and_its_terms_are_valid(path):
    active_blocks(config_of(path).KD.TERMS)


@every_run
def test_the_model_builds(path):
    cfg = config_of(path)
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    with torch.device("meta"):
        assert sum(p.numel() for p in build_detector(cfg).parameters()) > 0


@every_run
def test_the_teacher_has_a_config_with_as_many_classes(path):
    cfg = config_of(path)
    if active_blocks(cfg.KD.TERMS):
        assert num_classes(config_of(Path(cfg.KD.TEACHER.CONFIG_FILE)))[1] == num_classes(cfg)[1]


@every_run
def test_what_is_inherited_fits(path):
    cfg = config_of(path)
    if cfg.KD.INHERIT:
        own = config_of(Path(cfg.KD.TEACHER.CONFIG_FILE))
        own.MODEL.BACKBONE.WEIGHTS = cfg.MODEL.BACKBONE.WEIGHTS = ""
        with torch.device("meta"):
            student, teacher = build_detector(cfg), build_detector(own)
        assert inherit(student, teacher, cfg.KD.INHERIT, BODY, partial=False).left == []


@pytest.mark.parametrize("name", ["imitation_torchvision", "teacher_torchvision"])
def test_a_small_model_runs(name):
    model = build_detector(config_of(ROOT / "bccd" / f"{name}.yaml")).eval()
    assert set(model([torch.rand(3, 64, 96)])[0]) == {"boxes", "scores", "labels"}
