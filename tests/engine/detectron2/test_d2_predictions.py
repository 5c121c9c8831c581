"""Losses of what Detectron2's detectors predict: what they are fed, and that it is right."""

import copy

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from kd2.config import merge
from kd2.distill import ConfigError, Distiller
from kd2.engine.build import BuiltModel, assemble
from kd2.engine.detectron2 import add_d2_config
from kd2.engine.detectron2.models import blank_probe, build_plain
from kd2.engine.detectron2.step import step_of
from kd2.engine.proposals import check_stages
from kd2.ops.boxes import decode

from ...helpers.d2_tiny import COMMON, FASTER_RCNN, RETINANET, distiller_of, load_config, merged, write_pair

DENSE = ["dense=head.cls_score", "dense=head.bbox_pred"]
ROI = ["roi=roi_heads.box_predictor@vector"]
STAGES = [f"roi=roi_heads.box_predictor.{i}@vector" for i in range(3)]
GIOU = {"dense_kd": {"TAP": "dense", "BOX": "giou", "WEIGHT": 1.0}}
HEADS = {"roi_kd": {"TAP": "roi", "BOX": "smooth_l1", "WEIGHT": 1.0}}
MASK = {"MASK_ON": True, "ROI_MASK_HEAD": {"NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 4}}
MASK["ROI_MASK_HEAD"]["NAME"] = "MaskRCNNConvUpsampleHead"
CASCADE = {
    "ROI_HEADS": {"NAME": "CascadeROIHeads", "BATCH_SIZE_PER_IMAGE": 256},
    "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True},
}
FAMILIES = {
    "RetinaNet": (RETINANET, {}, DENSE, GIOU),
    "FCOS": (RETINANET, {}, DENSE, GIOU),
    "Mask R-CNN": (FASTER_RCNN, MASK, [*ROI, "roi=roi_heads.mask_head.predictor"], HEADS),
    "Cascade R-CNN": (FASTER_RCNN, CASCADE, STAGES, HEADS),
}
UNLABELED = CfgNode({"DATASETS": [], "SCORE_THRESH": 0.5})
each_family = pytest.mark.parametrize("family", FAMILIES)


def detector(family: str, seed: int = 0) -> nn.Module:
    base, changes, _, _ = FAMILIES[family]
    cfg = merge(add_d2_config(get_cfg()), merged(merged(COMMON, base), {"MODEL": changes}))
    torch.manual_seed(seed)
    model = build_plain(cfg, "MODEL.META_ARCHITECTURE")
    if family != "FCOS":
        return model
    shapes = [ShapeSpec(channels=16)] * 5
    head = FCOSHead(input_shape=shapes, num_classes=2, conv_dims=[16], norm="")
    levels = ["p3", "p4", "p5", "p6", "p7"]
    return FCOS(
        backbone=model.backbone,
        head=head,
        head_in_features=levels,
        num_classes=2,
        pixel_mean=[100.0] * 3,
        pixel_std=[50.0] * 3,
    )


def built(model: nn.Module, taps: list[str]) -> BuiltModel:
    return BuiltModel(model, blank_probe(model, (64, 64)), taps, "KD.TAPS")


def distiller(student: nn.Module, teacher: nn.Module, taps: list[list[str]], blocks: dict) -> Distiller:
    """In train mode, with batch norm as the teacher has it, so that equal networks give equal outputs."""
    sides = built(student, taps[0]), built(teacher, taps[1])
    model = assemble(*sides, step_of(student, False, UNLABELED, sides[1]), blocks).train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def of(family: str, seed: int) -> Distiller:
    """A pair of a family with every prediction loss of it; seed 0 gives the teacher the student's weights."""
    _, _, taps, blocks = FAMILIES[family]
    student = detector(family)
    return distiller(student, detector(family, seed) if seed else copy.deepcopy(student), [taps, taps], blocks)


def batch() -> list[dict]:
    draw = torch.Generator().manual_seed(0)
    samples = []
    for (height, width), boxes in {
        (64, 80): [[8.0, 8, 40, 48], [30, 20, 70, 60]],
        (56, 64): [[4.0, 4, 30, 50]],
    }.items():
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)
        masks = torch.ones(len(boxes), height, width, dtype=torch.bool)
        truth = {"gt_boxes": Boxes(boxes), "gt_classes": torch.arange(len(boxes)), "gt_masks": BitMasks(masks)}
        instances = Instances((height, width), **truth)
        samples.append({"image": image, "height": height, "width": width, "instances": instances})
    return samples


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
    for tap in FAMILIES[family][2]:
        module = model.student.get_submodule(tap.partition("=")[2].partition("@")[0])
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_each_head_runs_once_and_the_teachers_proposal_generator_never():
    model = of("Mask R-CNN", 1)
    calls = []
    for side, network in (("student", model.student), ("teacher", model.teacher.model)):
        for name in ("proposal_generator", "backbone", "roi_heads.box_head", "roi_heads.mask_head.predictor"):
            network.get_submodule(name).register_forward_hook(lambda *_, at=(side, name): calls.append(at))
    model(batch())
    assert ("teacher", "proposal_generator") not in calls and len(calls) == len(set(calls)) == 7
    assert "label_and_sample_proposals" not in vars(model.student.roi_heads)


def test_every_stage_of_a_cascade_has_proposals_and_targets_of_its_own():
    model = of("Cascade R-CNN", 1)
    model(batch())
    stages = model.placed_batch_info(batch()).proposals
    assert [stage.background for stage in stages] == [2, 2, 2]
    assert not torch.equal(stages[0].targets(), stages[1].targets())
    exact = stages[0].foreground & (stages[0].targets().abs().amax(1) < 1e-5)
    assert sorted(stages[0].labels[exact].tolist()) == [0, 0, 1]


def test_a_plain_student_learns_from_the_first_stage_of_a_cascade():
    student, teacher = detector("Mask R-CNN"), detector("Cascade R-CNN", 1)
    model = distiller(student, teacher, [ROI, STAGES[:1]], HEADS)
    losses = distilled(model(batch()))
    assert losses.keys() == {"loss_roi_kd_classes", "loss_roi_kd_boxes"}
    assert all(value.isfinite() and value > 0 for value in losses.values())


def test_a_config_that_taps_the_box_predictor_distills_from_it(data, tmp_path):
    losses = {"imitation": {"WEIGHT": 0.0}} | HEADS
    cfg = load_config(write_pair(tmp_path, data, {"KD": {"TAPS": ROI, "LOSSES": losses}}, detector=FASTER_RCNN))
    found = distilled(distiller_of(cfg)(batch()))
    assert found.keys() == {"loss_roi_kd_classes", "loss_roi_kd_boxes"}
    assert all(value.isfinite() and value > 0 for value in found.values())


def test_later_stages_of_a_cascade_alone_are_refused():
    with pytest.raises(
        ConfigError, match=r"KD.TAPS: roi taps the stages 1, 2 of roi_heads.box_predictor, expected 0, 1"
    ):
        check_stages(STAGES[1:], "KD.TAPS")


def test_heads_on_proposals_ask_for_roi_heads_on_both_sides():
    with pytest.raises(ConfigError, match="KD.TAPS: a tap in roi_heads asks for .* the student has no roi_heads"):
        step_of(detector("RetinaNet"), False, UNLABELED, built(detector("Mask R-CNN"), ROI))


def sigmoid_pair(data, folder, side: str, loss: dict, taps: list[str]):
    """The config of a student and a teacher, one of them with a sigmoid for each class."""
    sigmoid = ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"]
    own = {"MODEL": {"ROI_BOX_HEAD": {"USE_SIGMOID_CE": True}}} if side == "student" else {}
    kd = {"TAPS": taps, "TEACHER": {"OPTS": sigmoid if side == "teacher" else []}, "LOSSES": loss}
    return load_config(write_pair(folder, data, merged({"KD": kd}, own), detector=FASTER_RCNN))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_scores_of_sigmoids_are_refused_by_the_loss_of_a_softmax(data, tmp_path, side):
    cfg = sigmoid_pair(data, tmp_path, side, {"imitation": {"WEIGHT": 0.0}} | HEADS, ROI)
    text = (
        f"^KD.LOSSES.roi_kd needs proposals of the batch, [^\n]*; MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE of the {side} is "
        "True, expected False: the scores of its box head are no softmax over classes and background$"
    )
    with pytest.raises(ConfigError, match=text):
        distiller_of(cfg)


def test_features_of_such_heads_teach_all_the_same(data, tmp_path):
    loss = {"imitation": {"WEIGHT": 0.0}, "mimic": {"TAP": "box", "WEIGHT": 1.0}}
    model = distiller_of(sigmoid_pair(data, tmp_path, "student", loss, ["box=roi_heads.box_head@vector"]))
    assert model(batch())["loss_mimic"].isfinite()


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS", "Mask R-CNN"])
def test_boxes_are_decoded_as_the_detector_decodes_them(family):
    student = detector(family)
    coding = step_of(student, False, UNLABELED, built(student, [])).batch_info(batch()).coding
    (grid,) = coding.grids([(8, 12)])
    anchors = grid.dense().flatten(0, 2)
    numbers = torch.randn(len(anchors), 4, generator=torch.Generator().manual_seed(1))
    head = student.proposal_generator if family == "Mask R-CNN" else student
    torch.testing.assert_close(
        decode(coding.student, numbers, anchors), head.box2box_transform.apply_deltas(numbers, anchors)
    )


def test_points_of_an_fcos_are_no_anchors():
    """Its boxes are compared all the same, relative to its points."""
    student = detector("FCOS")
    step = step_of(student, False, UNLABELED, built(student, []))
    assert "anchors" not in step.offers and step.batch_info(batch()).anchors is None and "coding" in step.offers


def test_detectors_with_other_anchors_have_no_coding_in_common():
    step = step_of(detector("FCOS"), False, UNLABELED, built(detector("RetinaNet"), []))
    assert "coding" not in step.offers and step.batch_info(batch()).coding is None
