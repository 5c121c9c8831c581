"""torchvision's own detectors as teachers, by name."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, detection, list_models, mobilenet_v3_large
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from kd2.distill import ConfigError
from kd2.engine.lightning.published import build_published

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers import torchvision_files
from ....helpers.untrained_runs import write_run

QUICK = ("ssdlite320_mobilenet_v3_large",)
BUILDERS = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in list_models(detection)]
SIZES = {"ssd300_vgg16": {"MIN_SIZE_TRAIN": [288], "MAX_SIZE_TRAIN": 384}}


def config(folder, data, builder: str, weights: str, changes: dict | None = None) -> str:
    """A config that mimics one map of a builder of torchvision for two iterations."""
    loss = {"mimic": {"SHARE": 0.5, "RESIZE": "student"}}
    own = {
        "KD": {
            "TAPS": ["fpn=backbone:0"],
            "TEACHER": {"CONFIG_FILE": f"torchvision://{builder}", "WEIGHTS": weights},
            "LOSSES": loss,
        },
        "SOLVER": {"MAX_ITER": 2, "STEPS": []},
        "INPUT": SIZES.get(builder, {}),
    }
    return tiny.write_config(folder, data, runs.merged(own, changes or {}))


def test_every_detector_of_torchvision_is_tried():
    assert len(BUILDERS) == 12


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_student_learns_from_a_detector(builder, tmp_path, data):
    path = tmp_path / "zoo.pth"
    model = torchvision_files.write(builder, path)
    text = config(tmp_path, data, builder, str(path))
    run = runs.experiment(text)
    run.build_student()
    teacher = run.build_teacher()
    assert teacher.matched == 1
    own = {k: v for k, v in teacher.module.state_dict().items() if not k.endswith("num_batches_tracked")}
    theirs = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert runs.same(own, theirs) == []
    runs.train(text)
    assert runs.checkpoint(tmp_path / "out")["iteration"] == 1


def test_a_teacher_gives_what_torchvisions_own_model_gives(tmp_path, data):
    model = torchvision_files.write(QUICK[0], tmp_path / "zoo.pth", num_classes=5)
    teacher = runs.experiment(config(tmp_path, data, QUICK[0], str(tmp_path / "zoo.pth"))).build_teacher().module
    image = torch.rand(3, 320, 320)
    with torch.no_grad():
        for ours, theirs in zip(teacher.eval()([image])[0].values(), model([image])[0].values(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_an_ssdlite_of_a_script_that_fetched_a_backbone_is_a_teacher(tmp_path, data, monkeypatch):
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    drawn = mobilenet_v3_large(norm_layer=norm).state_dict()
    monkeypatch.setattr(MobileNet_V3_Large_Weights, "get_state_dict", lambda *_, **__: drawn)
    model = detection.ssdlite320_mobilenet_v3_large(num_classes=5)  # torchvision's default: an ImageNet backbone
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    found = runs.experiment(config(tmp_path, data, QUICK[0], str(tmp_path / "mine.pth"))).build_teacher()
    assert (found.matched, found.classes) == (1, {"things": ("KD.TEACHER.WEIGHTS", 4)})
    image = torch.rand(3, 320, 320)
    with torch.no_grad():
        for ours, theirs in zip(found.module.eval()([image])[0].values(), model.eval()([image])[0].values()):
            assert torch.equal(ours, theirs)


def tutorial(path) -> None:
    """The fine-tuning tutorial: new predictors of two classes on a Mask R-CNN with frozen norms."""
    torch.manual_seed(0)
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    model.roi_heads.box_predictor = FastRCNNPredictor(1024, 2)
    model.roi_heads.mask_predictor = MaskRCNNPredictor(256, 256, 2)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, path)


@pytest.mark.slow
def test_the_file_of_the_fine_tuning_tutorial_is_a_teacher(tmp_path, data):
    tutorial(tmp_path / "mine.pth")
    found = runs.experiment(config(tmp_path, data, "maskrcnn_resnet50_fpn", str(tmp_path / "mine.pth"))).build_teacher()
    assert (found.matched, found.classes) == (1, {"things": ("KD.TEACHER.WEIGHTS", 1)})
    norms = {type(x) for x in found.module.modules() if isinstance(x, (nn.BatchNorm2d, FrozenBatchNorm2d))}
    assert norms == {FrozenBatchNorm2d}
    # As torchvision has them behind its published weights, from which the tutorial starts.
    assert found.module.backbone.body.bn1.eps == 0


@pytest.mark.parametrize(
    ("weights", "eps"),
    [
        ("torchvision://keypointrcnn_resnet50_fpn", 0.0),
        ("torchvision://keypointrcnn_resnet50_fpn/COCO_V1", 0.0),
        ("torchvision://keypointrcnn_resnet50_fpn/COCO_LEGACY", 1e-5),
        ("mine.pth", 0.0),
    ],
)
def test_frozen_norms_have_the_epsilon_that_torchvision_gives_them(weights, eps):
    with torch.device("meta"):
        model = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        found, _ = build_published("keypointrcnn_resnet50_fpn", state, weights, "KEY")
    assert found.backbone.body.bn1.eps == eps


def refusal(folder, data, builder: str, weights: str, changes: dict | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        runs.distiller(config(folder, data, builder, weights, changes))
    return str(caught.value)


def test_a_mistyped_builder_is_refused_with_near_ones(tmp_path, data):
    text = refusal(tmp_path, data, "fasterrcnn_resnet50_fp", str(tmp_path / "zoo.pth"))
    assert text.startswith("KD.TEACHER.CONFIG_FILE: torchvision has no 'fasterrcnn_resnet50_fp'; did you mean fasterrc")


def test_a_network_of_another_task_is_refused(tmp_path, data):
    text = refusal(tmp_path, data, "resnet50", str(tmp_path / "zoo.pth"))
    assert text.startswith("KD.TEACHER.CONFIG_FILE: 'resnet50' of torchvision does no detection; ")


def test_mistyped_weights_are_refused_with_the_enums_names(tmp_path, data):
    text = refusal(tmp_path, data, QUICK[0], f"torchvision://{QUICK[0]}/COCO_V2")
    assert text.startswith(
        f"KD.TEACHER.WEIGHTS: {QUICK[0]} of torchvision has no weights 'COCO_V2'; did you mean COCO_V1"
    )


def test_a_file_of_another_network_is_refused_by_what_it_lacks(tmp_path, data):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    text = refusal(tmp_path, data, QUICK[0], str(tmp_path / "other.pth"))
    assert (
        "other.pth has no head.classification_head.module_list.0.1.bias, expected the weights of torchvision's" in text
    )


def test_options_are_refused(tmp_path, data):
    options = {"KD": {"TEACHER": {"OPTS": ["MODEL.ROI_HEADS.NUM_CLASSES", "2"]}}}
    text = refusal(tmp_path, data, QUICK[0], str(tmp_path / "zoo.pth"), options)
    assert text.startswith("KD.TEACHER.OPTS is given, but torchvision://ssdlite320_mobilenet_v3_large has no config")


def test_images_that_are_too_small_for_a_detector_are_refused(tmp_path, data):
    torch.save({"head.classification_head.module_list.0.bias": torch.zeros(8)}, tmp_path / "zoo.pth")
    sizes = {"INPUT": {"MIN_SIZE_TRAIN": [64]}}
    text = refusal(tmp_path, data, "ssd300_vgg16", str(tmp_path / "zoo.pth"), sizes)
    assert text == "INPUT.MIN_SIZE_TRAIN: ssd300_vgg16 as a teacher needs 257 pixels a side, found 64"


@pytest.mark.slow
def test_among_further_teachers_numbers_without_a_class_are_no_hindrance(tmp_path, data):
    anchors = {
        "MODEL": {"ANCHOR_GENERATOR": {"SIZES": [[size, 1.25 * size, 1.5 * size] for size in (8, 16, 32, 64, 128)]}}
    }
    own = Path(write_run(tiny.write_config(tmp_path, data, {**anchors, "DATASETS": {"TEST": ["tiny"]}}, "own")))
    torchvision_files.write("retinanet_resnet50_fpn", tmp_path / "zoo.pth", num_classes=5)
    names = ["__background__", "box", "unused", "bar", "unused too"]
    taps = ["fpn=backbone", "cls=head.classification_head.cls_logits"]
    zoo = {"CONFIG_FILE": "torchvision://retinanet_resnet50_fpn", "WEIGHTS": str(tmp_path / "zoo.pth")}
    second = {**zoo, "CLASSES": names, "TAPS": taps[1:]}
    loss = {"logits": {"TAP": "cls", "WEIGHT": 0.1}}
    first = {"CONFIG_FILE": str(tmp_path / "own.yaml"), "WEIGHTS": str(own / "model_final.pth")}
    kd = {"TAPS": taps, "TEACHER": first, "TEACHERS": [second], "LOSSES": loss}
    changes = anchors | {"KD": kd, "SOLVER": {"MAX_ITER": 1, "STEPS": []}, "OUTPUT_DIR": str(tmp_path / "new")}
    text = tiny.write_config(tmp_path, data, changes)
    shared = runs.distiller(text).configs["logits_teacher2"].shared
    assert shared.student.tolist() == [2 * anchor + place for anchor in range(9) for place in (0, 1)]
    assert shared.teacher.tolist() == [5 * anchor + place for anchor in range(9) for place in (1, 3)]
    runs.train(text)
    assert runs.checkpoint(tmp_path / "new")["iteration"] == 0


def test_losses_on_scores_need_the_teachers_classes(tmp_path, data):
    torchvision_files.write(QUICK[0], tmp_path / "zoo.pth", num_classes=5)
    taps = ["fpn=backbone:0", "cls=head.classification_head.module_list.0"]
    logits = {
        "KD": {
            "TEACHER": {"TAPS": taps},
            "STUDENT": {"TAPS": ["fpn=backbone:0", "cls=head.classification_head.cls_logits"]},
        }
    }
    losses = {"KD": {"LOSSES": {"logits": {"TAP": "cls"}}}}
    text = refusal(tmp_path, data, QUICK[0], str(tmp_path / "zoo.pth"), runs.merged(logits, losses))
    assert text.startswith("KD.TEACHER.WEIGHTS of the teacher is 4, MODEL.RETINANET.NUM_CLASSES of the student is 2")
