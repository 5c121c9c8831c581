"""The classes of Detectron2's published weights are known by name, with and without Detectron2."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")

from kd2.config import defaults_of, merge
from kd2.distill import ConfigError
from kd2.engine.build import check_pair
from kd2.engine.weights.checkpoint import teacher_classes
from kd2.engine.weights.names import zoo_classes
from kd2.zoo.detectron2 import names

from ..test_further_teachers import built

RETINANET = "COCO-Detection/retinanet_R_50_FPN_3x.yaml"


def test_the_names_of_coco_in_the_order_of_the_outputs():
    found = zoo_classes(RETINANET)
    assert (len(found), found[0], found[11], found[-1]) == (80, "person", "stop sign", "toothbrush")


@pytest.mark.parametrize("data", ["coco", "cityscapes", "coco_person"])
def test_they_are_those_of_detectron2s_own_data_sets(data):
    meta = pytest.importorskip("detectron2.data.datasets.builtin_meta", reason="Detectron2 is not installed")
    name = {"coco": RETINANET, "cityscapes": "Cityscapes/mask_rcnn_R_50_FPN.yaml"}
    found = zoo_classes(name.get(data, "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"))
    assert found == meta._get_builtin_metadata(data)["thing_classes"]  # which has no public name


def test_those_of_pascal_voc_too():
    voc = pytest.importorskip("detectron2.data.datasets.pascal_voc", reason="Detectron2 is not installed")
    assert tuple(zoo_classes("PascalVOC-Detection/faster_rcnn_R_50_C4.yaml")) == tuple(voc.CLASS_NAMES)


def test_what_stands_behind_the_scheme_and_addresses_are_known_too():
    file = "COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl"
    for start in ("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/"):
        assert zoo_classes(start + file) == zoo_classes(RETINANET)


def test_every_other_file_has_none():
    others = ["my.pth", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "https://example.org/COCO-Detection/x.pkl"]
    others += [name for name in names() if name.startswith("LVIS") or "/rpn" in name]
    assert len(others) > 5 and not any(zoo_classes(name) for name in others)


def test_eighty_other_classes_are_no_match_for_a_loss_on_scores():
    teacher = {"CONFIG_FILE": RETINANET, "WEIGHTS": RETINANET}
    cfg = merge(defaults_of("torchvision"), {"KD": {"TEACHER": teacher}})
    known, key = teacher_classes(cfg, "things", RETINANET, "KD.TEACHER")
    student, model = built(4, tuple(f"class{i}" for i in range(80))), built(6, tuple(known["things"]))
    with pytest.raises(ConfigError, match="differ in class 0: 'class0' and 'person'"):
        check_pair(student, model, {"dense_kd": {"TAP": "scores"}})
    assert key == "KD.TEACHER.WEIGHTS"
