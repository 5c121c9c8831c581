"""Losses of what torchvision's detectors predict: what they are fed, and that it is right."""

import copy

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from torch import nn
from torch.profiler import profile

from kd2.distill import ConfigError, Distiller, Probe
from kd2.engine.build import BuiltModel, assemble
from kd2.engine.lightning.detection.coding import DenseAnchors
from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import NoResize, build_detector, dense_head
from kd2.engine.lightning.detection.step import detection_step
from kd2.networks.group_norm import allow_single_values
from kd2.ops.boxes import decode

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

DENSE = ["dense=head.classification_head.cls_logits", "dense=head.regression_head.bbox_reg"]
ROI = ["roi=roi_heads.box_predictor@vector"]
GIOU = {"dense_kd": {"TAP": "dense", "BOX": "giou", "WEIGHT": 1.0}}
HEADS = {"roi_kd": {"TAP": "roi", "BOX": "smooth_l1", "WEIGHT": 1.0}}
FAMILIES = {
    "RetinaNet": (DENSE, GIOU),
    "FCOS": (DENSE, GIOU),
    "FasterRCNN": (ROI, HEADS),
    "MaskRCNN": ([*ROI, "roi=roi_heads.mask_predictor"], HEADS),
}
UNLABELED = tiny.config().KD.UNLABELED
each_family = pytest.mark.parametrize("family", FAMILIES)


def detector(family: str, seed: int = 0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    model = build_detector(tiny.config({"MODEL": {"META_ARCHITECTURE": family, "FPN": {"OUT_CHANNELS": 32}} | changes}))
    model.transform = NoResize(model.transform)
    allow_single_values(model)
    return model


def built(model: nn.Module, taps: list[str]) -> BuiltModel:
    return BuiltModel(model, Probe(lambda: model([torch.zeros(3, 64, 64)]), (64, 64)), taps, "KD.TAPS")


def distiller(student: nn.Module, teacher: nn.Module, taps: list[str], blocks: dict) -> Distiller:
    """In train mode, with batch norm as the teacher has it, so that equal networks give equal outputs."""
    sides = built(student, taps), built(teacher, taps)
    model = assemble(*sides, detection_step(student, False, UNLABELED, sides[1]), blocks).train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def of(family: str, seed: int) -> Distiller:
    """A pair of a family with every prediction loss of it; seed 0 gives the teacher the student's weights."""
    taps, blocks = FAMILIES[family]
    student = detector(family)
    return distiller(student, detector(family, seed) if seed else copy.deepcopy(student), taps, blocks)


def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    sizes, boxes = [(64, 80), (56, 64)], [[[8.0, 8, 40, 48], [30, 20, 70, 60]], [[4.0, 4, 30, 50]]]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=draw) for size in sizes]
    targets = []
    for size, of_image in zip(sizes, boxes):
        masks = torch.zeros(len(of_image), *size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, of_image):
            mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
        targets.append({"boxes": torch.tensor(of_image), "labels": torch.arange(len(of_image)), "masks": masks})
    return Batch(images, targets, [t["boxes"] for t in targets], [])


def distilled(losses: dict) -> dict:
    return {name: value for name, value in losses.items() if "_kd" in name}


@each_family
def test_a_student_that_equals_its_teacher_gets_no_gradient(family):
    model = of(family, 0)
    losses = distilled(model(batch()))
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert max(gradient.abs().max() for gradient in gradients) < 1e-5
    assert all(value.abs() < 1e-5 for name, value in losses.items() if not name.endswith("masks"))


@each_family
def test_another_teacher_sends_a_gradient_into_every_part_of_the_head(family):
    model = of(family, 1)
    losses = distilled(model(batch()))
    assert all(value.isfinite() and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    for tap in FAMILIES[family][0]:
        module = model.student.get_submodule(tap.partition("=")[2].partition("@")[0])
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_each_head_runs_once_and_the_teachers_rpn_never(monkeypatch):
    model = of("MaskRCNN", 1)
    calls = []
    for side, network in (("student", model.student), ("teacher", model.teacher.model)):
        for name in ("rpn", "backbone", "roi_heads.box_head", "roi_heads.mask_head"):
            network.get_submodule(name).register_forward_hook(lambda *_, at=(side, name): calls.append(at))
    model(batch())
    assert ("teacher", "rpn") not in calls and len(calls) == len(set(calls)) == 7


def test_nothing_stays_on_the_student_behind_a_step():
    model = of("MaskRCNN", 1)
    model(batch())
    assert "select_training_samples" not in vars(model.student.roi_heads)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.student.modules())


def test_proposals_know_their_classes_and_the_place_of_the_background():
    student = detector("FasterRCNN", ROI_HEADS={"NUM_CLASSES": 2, "BATCH_SIZE_PER_IMAGE": 256})
    model = distiller(student, copy.deepcopy(student), ROI, HEADS)
    model(batch())
    (stage,) = model.placed_batch_info(batch()).proposals
    assert stage.background == 0 and len(stage.labels) == len(stage.targets())
    # The boxes of the truth are among the proposals: their targets are 0.
    exact = stage.foreground & (stage.targets().abs().amax(1) < 1e-5)
    assert sorted(stage.labels[exact].tolist()) == [1, 1, 2]


def test_without_a_tapped_head_the_teacher_runs_first_and_as_it_always_does():
    student = detector("FasterRCNN")
    model = distiller(student, detector("FasterRCNN", 1), ["fpn=backbone"], {"pkd": {"WEIGHT": 1.0}})
    order = []
    for name, network in (("student", model.student), ("teacher", model.teacher.model)):
        network.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    model(batch())
    assert order == ["teacher", "student"] and model.placed_batch_info(batch()).proposals == []


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS", "FasterRCNN"])
def test_boxes_are_decoded_as_the_detector_decodes_them(family):
    student = detector(family)
    coding = detection_step(student, False, UNLABELED, built(student, ["fpn=backbone"])).batch_info(batch()).coding
    (grid,) = coding.grids([(8, 12)])
    anchors = grid.dense().flatten(0, 2)
    numbers = torch.randn(len(anchors), 4, generator=torch.Generator().manual_seed(1))
    coder = dense_head(student).box_coder
    # The ReLU is in the head of torchvision's FCOS, not in its coder.
    own = coder.decode(numbers.relu(), anchors) if family == "FCOS" else coder.decode_single(numbers, anchors)
    torch.testing.assert_close(decode(coding.student, numbers, anchors), own)


def test_other_anchors_are_refused_with_the_reason():
    student, teacher = (
        detector("RetinaNet"),
        detector("RetinaNet", 1, ANCHOR_GENERATOR={"SIZES": [[12], [16], [32], [64], [128]]}),
    )
    with pytest.raises(
        ConfigError, match=r"KD.LOSSES.dense_kd needs coding .* anchor by anchor, theirs are not the same"
    ):
        distiller(student, teacher, DENSE, GIOU)


def test_anchors_that_are_spaced_otherwise_are_refused():
    """By strides, as Detectron2 does it, or by cells: equal at one cell, not everywhere."""
    sizes = {"SIZES": [[16], [32], [64], [128], [256]], "ASPECT_RATIOS": [[1.0]]}
    student, teacher = (
        detector("RetinaNet", ANCHOR_GENERATOR=sizes, CONVENTIONS=conventions)
        for conventions in ("torchvision", "detectron2")
    )
    assert all(torch.equal(*pair) for pair in zip(DenseAnchors(student).bases, DenseAnchors(teacher).bases))
    with pytest.raises(ConfigError, match="KD.LOSSES.dense_kd needs coding of the batch"):
        distiller(student, teacher, DENSE, GIOU)


def test_the_loss_of_box_heads_asks_for_their_tap():
    student = detector("FasterRCNN")
    taps = ["roi=rpn.head.cls_logits", "roi=rpn.head.bbox_pred"]
    with pytest.raises(
        ConfigError, match=r"KD.LOSSES.roi_kd: the tap has maps of .* such as roi=roi_heads.box_predictor@vector"
    ):
        distiller(student, copy.deepcopy(student), taps, HEADS)


def test_heads_on_proposals_ask_for_an_rcnn_on_both_sides():
    student, teacher = detector("RetinaNet"), built(detector("FasterRCNN"), ROI)
    with pytest.raises(
        ConfigError, match="KD.TAPS: a tap in roi_heads asks for an R-CNN on both sides, the student is a RetinaNet"
    ):
        detection_step(student, False, UNLABELED, teacher)


def test_a_config_that_taps_the_box_predictor_distills_from_it(tmp_path, data, rcnn_teacher):
    kd = {"KD": {"TAPS": ROI, "LOSSES": {"imitation": {"WEIGHT": 0.0}} | HEADS}}
    config = tiny.write_config(tmp_path, data, tiny.distilled(rcnn_teacher, runs.merged(tiny.FASTER_RCNN, kd)))
    losses = distilled(runs.distiller(config)(runs.first_batch(config)))
    assert losses.keys() == {"loss_roi_kd_classes", "loss_roi_kd_boxes"}
    assert all(value.isfinite() and value > 0 for value in losses.values())


@each_family
def test_a_step_reads_no_more_values_back_than_plain_training(family):
    def readouts(model) -> int:
        sum(model(batch()).values()).backward()
        with profile() as recorded:
            sum(model(batch()).values()).backward()
        return sum(event.count for event in recorded.key_averages() if event.key == "aten::_local_scalar_dense")

    model = of(family, 1)
    plain = Distiller(model.student, run_student=model.run_student).train()
    assert readouts(model) <= readouts(plain)
