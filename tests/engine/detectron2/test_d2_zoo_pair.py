"""The README's distillation of two configs of Detectron2's zoo, as they are."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import re
from pathlib import Path

import torch

from kd2.config import read
from kd2.distill import ConfigError
from kd2.engine.detectron2.config import run_config, teacher_config
from kd2.engine.detectron2.models import build_plain

from ...helpers.d2_tiny import train, write_data

README = Path(__file__).parents[3] / "README.md"
CPU = ["MODEL.DEVICE", "cpu"]


@pytest.fixture
def config(tmp_path):
    text = re.search(r"<!-- zoo pair -->\n```yaml\n(.*?)```", README.read_text(), re.S)[1]
    assert len(text.splitlines()) <= 6
    path = tmp_path / "pair.yaml"
    path.write_text(text)
    return str(path)


def test_six_lines_name_both_as_the_zoo_has_them(config):
    cfg = run_config(read(config, CPU), config)
    teacher = teacher_config(cfg)
    assert (cfg.MODEL.RESNETS.DEPTH, teacher.MODEL.RESNETS.DEPTH) == (50, 101)
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",) and cfg.SOLVER.STEPS == (60000, 80000)


def test_a_config_that_the_zoo_lacks_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("_BASE_: detectron2://COCO-Detection/faster_rcnn_R_50_FPN_1y.yaml\n")
    with pytest.raises(ConfigError, match="^detectron2://.*1y.yaml: the package has no such config; .*_1x.yaml"):
        read(str(path))


@pytest.mark.slow
def test_they_distill(config, tmp_path):
    """Weights are drawn, with small last norms: without training the maps of a hundred layers would grow."""
    cfg = run_config(read(config, CPU), config)
    for name, own in (("student", cfg), ("teacher", teacher_config(cfg))):
        state = build_plain(own, "x").state_dict()
        torch.save(
            {"model": {k: x * 0.1 if "conv3.norm.weight" in k else x for k, x in state.items()}}, tmp_path / name
        )
    write_data(tmp_path / "data", tuple(f"kind {i}" for i in range(80)))
    custom = {"JSON": str(tmp_path / "data" / "coco.json"), "IMAGES": str(tmp_path / "data" / "images")}
    options = {
        "DATASETS.CUSTOM": {"tiny": custom}, "DATASETS.TRAIN": ["tiny"], "DATASETS.TEST": [], "SEED": 0,
        "MODEL.WEIGHTS": str(tmp_path / "student"), "KD.TEACHER.WEIGHTS": str(tmp_path / "teacher"),
        "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "INPUT.MIN_SIZE_TRAIN": [64], "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "out"),
    }  # fmt: skip
    train(config, *CPU, *(str(x) for pair in options.items() for x in pair))
    assert (tmp_path / "out" / "model_final.pth").is_file()
