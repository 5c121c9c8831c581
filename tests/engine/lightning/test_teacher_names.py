"""Names of teachers on the roads that Lightning trains: Detectron2's zoo, timm, folders of runs."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("timm", reason="needs timm")

import timm
import torch
from safetensors.torch import save_file

from kd2.distill import ConfigError
from kd2.engine.lightning.backbones import resnet
from kd2.engine.lightning.teacher import timm_config

from ...helpers import lightning_runs as runs
from ...helpers import published_weights, tiny_classification, tiny_detection, zoo_files

ZOO = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


def named(config_file: str, weights: str) -> dict:
    """Changes that make a config imitate a teacher by name."""
    own = {"CONFIG_FILE": config_file, "WEIGHTS": weights}
    return {"KD": {"TEACHER": own, "LOSSES": {"mimic": {"WEIGHT": 0.001}}}}


def test_a_folder_of_a_run_is_a_teacher(tmp_path, data, teacher):
    text = tiny_detection.write_config(tmp_path, data, named(str(teacher / "out"), str(teacher / "out")))
    own = runs.experiment(text).build_teacher()
    assert runs.same(own.module.state_dict(), runs.checkpoint(teacher / "out")["model"]) == []
    assert own.names == {"things": ["box", "bar"]}


def test_a_folder_of_a_run_that_is_a_teacher_is_not_written_over(tmp_path, data, teacher):
    text = tiny_detection.write_config(tmp_path, data, named(str(teacher / "out"), str(teacher / "out")))
    with pytest.raises(ConfigError, match="^--overwrite would remove .*, a file that this run reads; name another"):
        runs.train(text, "OUTPUT_DIR", str(teacher / "out"), overwrite=True)


def test_a_network_of_timm_brings_its_classes_and_its_input():
    assert timm_config("timm://test_resnet.r160_in1k", "KEY") == {
        "FRAMEWORK": "timm",
        "MODEL": {
            "NAME": "test_resnet.r160_in1k",
            "NUM_CLASSES": 1000,
            "PIXEL_MEAN": [127.5] * 3,
            "PIXEL_STD": [127.5] * 3,
        },
        "INPUT": {"SIZE": 160},
    }


def test_a_network_of_timm_is_a_teacher(tmp_path, pictures):
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    own = {"CONFIG_FILE": "timm://test_resnet.r160_in1k", "WEIGHTS": str(tmp_path / "mine.safetensors")}
    changes = {"KD": {"TEACHER": own | {"OPTS": ["MODEL.NUM_CLASSES", "3"]}, "LOSSES": {"logits": {"TAP": "logits"}}}}
    found = runs.experiment(tiny_classification.write_config(tmp_path, pictures, changes)).build_teacher()
    assert runs.same(found.module.state_dict(), state) == []
    assert found.facts["input size"] == 160


def test_a_detector_of_the_zoo_learns_other_classes_by_options(tmp_path, data):
    """A file that was fine-tuned with Detectron2 from the zoo."""
    state = zoo_files.detector("retinanet", "R_50", classes=2)
    torch.save({"model": state}, tmp_path / "mine.pth")
    text = tiny_detection.write_config(tmp_path, data, named(ZOO, str(tmp_path / "mine.pth")))
    own = runs.experiment(text, "KD.TEACHER.OPTS", "['MODEL.RETINANET.NUM_CLASSES', '2']").build_teacher()
    assert (own.matched, own.color_order) == (1, "BGR")


def test_detectron2s_weights_are_refused_for_a_model_with_torchvisions_conventions(tmp_path, data, teacher):
    torch.save({"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(1)}}, tmp_path / "theirs.pth")
    text = tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))
    expected = "^MODEL.WEIGHTS: .*theirs.pth is a detector of Detectron2, expected torchvision's names; with MODEL.CONV"
    with pytest.raises(ConfigError, match=expected):
        runs.distiller(text, "MODEL.WEIGHTS", str(tmp_path / "theirs.pth"))


def test_a_detector_that_torchvision_lacks_is_refused(tmp_path, data):
    text = tiny_detection.write_config(tmp_path, data, named("COCO-Detection/faster_rcnn_R_50_C4_3x.yaml", "x.pkl"))
    with pytest.raises(ConfigError, match="^KD.TEACHER.CONFIG_FILE: FRAMEWORK torchvision reads RetinaNet, Faster, Ma"):
        runs.distiller(text)


def test_msras_resnet_is_what_detectron2_makes_of_it(tmp_path):
    """Statistics folded into the norms, or beside them: one network."""
    published_weights.write_msra_resnet(tmp_path / "R-50.pkl")
    state = dict(zoo_files.resnet("R_50", torch.Generator().manual_seed(1)))
    torch.save(state, tmp_path / "R-50.pth")
    maps = []
    for name in ("R-50.pkl", "R-50.pth"):
        backbone = {"NAME": "resnet50", "NORM": "FrozenBN", "STRIDE_IN_1X1": True, "WEIGHTS": str(tmp_path / name)}
        body = resnet(tiny_detection.config({"MODEL": {"BACKBONE": backbone}}))
        with torch.no_grad():
            maps.append(body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(50 * torch.ones(1, 3, 32, 32)))))))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-4)


def test_strides_stand_in_the_1x1():
    backbone = {"NAME": "resnet50", "STRIDE_IN_1X1": True}
    with torch.device("meta"):
        block = resnet(tiny_detection.config({"MODEL": {"BACKBONE": backbone}})).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_strides_of_a_network_without_a_1x1_cannot_be_moved():
    with pytest.raises(ConfigError, match="^MODEL.BACKBONE.STRIDE_IN_1X1 is True, but 'resnet18' has no 1x1 before"):
        resnet(tiny_detection.config({"MODEL": {"BACKBONE": {"NAME": "resnet18", "STRIDE_IN_1X1": True}}}))
