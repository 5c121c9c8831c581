"""The Detectron2 configs of the project."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import os

from detectron2.config import get_cfg
from detectron2.modeling import build_model

from kd2.bridges.d2 import add_d2_config, zoo
from kd2.bridges.d2.config import load_config
from kd2.bridges.d2.models import build_student

CONFIGS = os.path.join(os.path.dirname(__file__), "..", "..", "configs")
OURS = [
    "Base-RetinaNet", "Base-RCNN-FPN", "coco/fgd_imitation", "coco/fgd_imitation_faster_rcnn",
    "bccd/Base-Detectron2", "bccd/teacher_detectron2", "bccd/imitation_detectron2",
]


@pytest.mark.parametrize("name", OURS)
def test_detectron2s_own_reader_understands_the_file(name):
    path = os.path.join(CONFIGS, f"{name}.yaml")
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(path, allow_unsafe=False)
    ours = load_config(path)
    for key in ("SOLVER", "INPUT", "DATASETS"):
        assert cfg[key] == ours[key]


@pytest.mark.parametrize(
    "base, original, changed",
    [
        ("Base-RetinaNet", "COCO-Detection/retinanet_R_50_FPN_1x.yaml", {"WEIGHTS", "DEVICE"}),
        ("Base-RCNN-FPN", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {"WEIGHTS", "DEVICE"}),
    ],
)
def test_our_bases_are_the_zoos(base, original, changed):
    ours, theirs = add_d2_config(get_cfg()), add_d2_config(get_cfg())
    ours.merge_from_file(os.path.join(CONFIGS, f"{base}.yaml"), allow_unsafe=False)
    theirs.merge_from_file(zoo.config_path(original, "original"))
    for cfg in (ours, theirs):
        for key in changed:
            del cfg.MODEL[key]
    assert ours == theirs


@pytest.mark.parametrize("name, millions", [("bccd/teacher_detectron2", 12.0), ("bccd/imitation_detectron2", 0.5)])
def test_students_of_the_blood_cell_configs_have_the_stated_size(name, millions):
    model = build_student(load_config(os.path.join(CONFIGS, f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_build_model_of_a_plain_script_works_after_an_import(monkeypatch):
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(os.path.join(CONFIGS, "coco", "fgd_imitation.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "KD.TERMS.imitation.WEIGHT", 0.0, "MODEL.RESNETS.DEPTH", 50])
    assert type(build_model(cfg).student).__name__ == "RetinaNet"
