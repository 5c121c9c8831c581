"""The teacher: where it comes from, and what is refused."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import glob
import os
import re
from pathlib import Path

import detectron2
import torch

from kd2.distill import ConfigError
from kd2.engine.detectron2 import zoo
from kd2.engine.detectron2.config import teacher_config
from kd2.zoo.detectron2 import address, names

from ...helpers.d2_tiny import FASTER_RCNN, distiller_of, load_config, merged, save_model, train, write_config

NAME = "COCO-Detection/retinanet_R_101_FPN_3x.yaml"


# A loss that compares classes.
LOGITS = ["KD.TAPS", "['fpn=backbone', 'cls=head.cls_score']", "KD.LOSSES", "{'logits': {'TAP': 'cls'}}"]


def changed(retinanets: str, *options: str):
    return load_config(retinanets, list(options))


def test_a_zoo_name_is_detectron2s_own_file_with_the_options_over_it(retinanets):
    cfg = changed(retinanets, "KD.TEACHER.CONFIG_FILE", NAME, "KD.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNELS', 64]")
    own = teacher_config(cfg)
    assert (own.MODEL.RESNETS.DEPTH, own.MODEL.FPN.OUT_CHANNELS, own.MODEL.DEVICE) == (101, 64, "cpu")


def test_every_name_with_weights_is_one_of_detectron2s_table():
    """Without its own table, whose module needs a package that setuptools dropped."""
    path = Path(detectron2.__file__).parent / "model_zoo" / "model_zoo.py"
    theirs = dict(re.findall(r'"([^"]+)": "(\d+/model_\w+\.pkl)"', path.read_text()))
    ours = {name.removesuffix(".yaml"): address(name, "KEY") for name in names()}
    assert ours == {name: f"https://dl.fbaipublicfiles.com/detectron2/{name}/{file}" for name, file in theirs.items()}


def test_every_zoo_name_of_ours_exists():
    root = os.path.join(os.path.dirname(__file__), "..", "..", "..", "configs", "coco")
    for path in glob.glob(os.path.join(root, "*.yaml")):
        for line in Path(path).read_text().splitlines():
            if line.strip().startswith(("CONFIG_FILE:", "WEIGHTS:")) and line.endswith(".yaml") and "/" in line:
                assert line.split()[-1] in zoo.config_names()


@pytest.mark.parametrize(
    "options, text",
    [
        (["KD.TEACHER.CONFIG_FILE", ""], "KD.TEACHER.CONFIG_FILE is empty"),
        (
            ["KD.TEACHER.CONFIG_FILE", "COCO-Detection/retinanet_R_101_FPN_9x.yaml"],
            "is no file .* did you mean COCO-Detection/retinanet_R_101_FPN_3x.yaml",
        ),
        (["KD.TEACHER.WEIGHTS", ""], "KD.TEACHER.WEIGHTS is empty"),
        (["KD.TEACHER.WEIGHTS", "nowhere.pth"], "KD.TEACHER.WEIGHTS: no file nowhere.pth"),
        (["KD.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNEL', 8]"], "OUT_CHANNEL: no such key; did you mean OUT_CHANNELS"),
        (
            ["KD.TEACHER.OPTS", "['MODEL.RETINANET.NUM_CLASSES', 5]", *LOGITS],
            "MODEL.RETINANET.NUM_CLASSES of the teacher is 5, MODEL.RETINANET.NUM_CLASSES of the student is 2; KD.LOSS",
        ),
        (
            ["KD.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNELS', 8]"],
            r"KD.TEACHER.WEIGHTS: .*teacher.pth does not fit the model: \d.* other shape",
        ),
        (["KD.TEACHER.OPTS", "['MODEL.RETINANET.NUM_CONVS', 2]"], "does not fit the model: .* missing"),
        (["KD.TEACHER.TAPS", "['fpn=backbon']"], "KD.TEACHER.TAPS: the model has no module 'backbon'"),
        (["KD.TEACHER.TAPS", "['fpn=backbone:p3,p4']"], "has 5 maps in the student and 2 in the teacher"),
    ],
)
def test_a_bad_teacher_is_named_before_training(retinanets, options, text):
    with pytest.raises(ConfigError, match=text):
        distiller_of(changed(retinanets, *options))


def test_weights_that_fit_in_part_need_the_opt_in(retinanets):
    options = ["KD.TEACHER.OPTS", "['MODEL.RETINANET.NUM_CONVS', 2]", "KD.TEACHER.ALLOW_PARTIAL", "True"]
    assert distiller_of(changed(retinanets, *options)).teacher is not None


def test_a_teacher_with_other_classes_serves_losses_on_features(retinanets, data, tmp_path):
    """A Faster R-CNN teaches a RetinaNet on the levels that both have."""
    three = merged(FASTER_RCNN, {"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 3}}})
    teacher = write_config(tmp_path, data, name="teacher", detector=three)
    save_model(load_config(teacher), tmp_path / "teacher.pth")
    options = ["KD.TEACHER.CONFIG_FILE", teacher, "KD.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth")]
    taps = "['fpn=backbone:p3,p4,p5']"
    assert distiller_of(changed(retinanets, *options, "KD.TAPS", taps)).teacher is not None
    with pytest.raises(ConfigError, match="ROI_HEADS.NUM_CLASSES of the teacher is 3, MODEL.RETINANET.NUM_CLASSES"):
        distiller_of(changed(retinanets, *options, *LOGITS))


def test_losses_on_scores_need_the_students_classes_in_order(retinanets, tmp_path):
    content = torch.load(retinanets.replace("student.yaml", "teacher.pth"), weights_only=True)
    torch.save(content | {"kd2": {"classes": {"things": ["bar", "box"]}}}, tmp_path / "named.pth")
    options = ["KD.TEACHER.WEIGHTS", str(tmp_path / "named.pth"), "SOLVER.MAX_ITER", "1"]
    options += ["OUTPUT_DIR", str(tmp_path)]
    text = r"KD.LOSSES.logits compares classes: the student's data and the teacher \(KD.TEACHER.WEIGHTS\) differ in"
    with pytest.raises(ConfigError, match=text):
        train(retinanets, *options, *LOGITS)
    train(retinanets, *options, "OUTPUT_DIR", str(tmp_path / "features"))
    options += ["OUTPUT_DIR", str(tmp_path / "named"), "KD.TEACHER.CLASSES", "['box', 'bar']"]
    train(retinanets, *options, *LOGITS)


def test_a_yaml_tag_of_a_users_file_is_not_evaluated(retinanets, tmp_path):
    (tmp_path / "evil.yaml").write_text("SEED: !!python/object/apply:os.getpid []\n")
    with pytest.raises(ConfigError, match="evil.yaml: not a safe YAML mapping"):
        distiller_of(changed(retinanets, "KD.TEACHER.CONFIG_FILE", str(tmp_path / "evil.yaml")))


def test_a_teacher_for_another_framework_is_refused(retinanets, tmp_path):
    (tmp_path / "other.yaml").write_text("FRAMEWORK: torchvision\n")
    with pytest.raises(ConfigError, match="FRAMEWORK in .*other.yaml is not detectron2"):
        distiller_of(changed(retinanets, "KD.TEACHER.CONFIG_FILE", str(tmp_path / "other.yaml")))


def test_a_truncated_teacher_is_named(retinanets, tmp_path):
    whole = Path(retinanets.replace("student.yaml", "teacher.pth")).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="KD.TEACHER.WEIGHTS: .*half.pth is truncated"):
        distiller_of(changed(retinanets, "KD.TEACHER.WEIGHTS", str(tmp_path / "half.pth")))


def test_the_teacher_stays_in_eval_mode_and_never_trains(retinanets):
    model = distiller_of(load_config(retinanets)).train()
    assert not any(module.training for module in model.teacher.model.modules())
    assert not any(p.requires_grad for p in model.teacher.model.parameters())
    own = {id(p) for p in model.parameters()}
    assert not any(id(p) in own for p in model.teacher.model.parameters())
    assert torch.is_grad_enabled()
