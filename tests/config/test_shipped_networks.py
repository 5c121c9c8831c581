"""The networks of every torchvision config below configs/ can be built, tapped and distilled."""

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="the torchvision configs need torchvision")
pytest.importorskip("timm", reason="the torchvision configs need timm")

import torch

from kd2.config import framework_of, load, load_teacher_config, read, taps_of
from kd2.distill import Probe, probed
from kd2.engine.init_from_teacher import init_from_teacher
from kd2.engine.lightning.detection import models as detection
from kd2.engine.lightning.run import experiment_for
from kd2.engine.lightning.segmentation import models as segmentation
from kd2.losses import active_losses, build_losses

ROOT = Path(__file__).parents[2] / "configs"
FILES = [p for p in sorted(ROOT.rglob("*.yaml")) if framework_of(read(str(p)), str(p)) == "torchvision"]
RUNS = [p for p in FILES if not p.name.startswith("Base")]

every_run = pytest.mark.parametrize("path", RUNS, ids=lambda p: str(p.relative_to(ROOT)))


def config_of(path: Path):
    return load(str(path))


def classes(cfg) -> int:
    models = segmentation if cfg.MODEL.META_ARCHITECTURE in segmentation.ARCHITECTURES else detection
    return models.num_classes(cfg)[1]


def test_there_are_configs():
    assert ROOT / "torchvision" / "bccd" / "imitation.yaml" in RUNS


@every_run
def test_the_model_builds(path):
    cfg = config_of(path)
    cfg.MODEL.BACKBONE.WEIGHTS = ""
    with torch.device("meta"):
        assert sum(p.numel() for p in experiment_for(cfg).build_student().module.parameters()) > 0


@every_run
def test_the_teacher_has_a_config_with_as_many_classes(path):
    cfg = config_of(path)
    if active_losses(cfg.KD.LOSSES):
        assert classes(load_teacher_config(cfg)) == classes(cfg)


@every_run
def test_what_is_inherited_fits(path):
    cfg = config_of(path)
    if cfg.KD.INIT_FROM_TEACHER:
        own = load_teacher_config(cfg)
        own.MODEL.BACKBONE.WEIGHTS = cfg.MODEL.BACKBONE.WEIGHTS = ""
        with torch.device("meta"):
            student, teacher = (experiment_for(its).build_student().module for its in (cfg, own))
        assert (
            init_from_teacher(
                student, teacher, cfg.KD.INIT_FROM_TEACHER, experiment_for(cfg).backbone, partial=False
            ).left
            == []
        )


@pytest.mark.parametrize("path", [p for p in RUNS if p.parent.name == "camvid"], ids=lambda p: p.name)
def test_losses_of_segmentation_fit_the_tapped_maps(path):
    cfg = config_of(path)
    own = load_teacher_config(cfg) if cfg.KD.TEACHER.CONFIG_FILE else cfg
    size, specs = tuple(cfg.INPUT.CROP.SIZE), []
    for side, its in (("STUDENT", cfg), ("TEACHER", own)):
        model = segmentation.build_segmenter(its)
        taps = taps_of(cfg, side)[0] if active_losses(cfg.KD.LOSSES) else ["score=classifier"]
        specs.append(
            probed(model, taps, Probe(lambda model=model: model(torch.zeros(1, 3, *size)), size), "TAPS").specs
        )
    build_losses(active_losses(cfg.KD.LOSSES), *specs)


@pytest.mark.parametrize("name", ["imitation", "teacher"])
def test_a_small_model_runs(name):
    model = detection.build_detector(config_of(ROOT / "torchvision" / "bccd" / f"{name}.yaml")).eval()
    assert set(model([torch.rand(3, 64, 96)])[0]) == {"boxes", "scores", "labels"}
