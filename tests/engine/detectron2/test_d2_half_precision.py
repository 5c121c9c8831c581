"""Boxes in mixed precision: as exact as in float32, wherever Detectron2 would round them."""

import copy

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from kd2.distill import Distiller
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.step import run_student
from kd2.engine.mixed_precision import forward_precision
from kd2.networks.group_norm import allow_single_values

from ...helpers.d2_tiny import (
    FASTER_RCNN,
    RETINANET,
    distiller_of,
    load_config,
    merged,
    student_of,
    train,
    write_config,
    write_pair,
)
from .test_d2_predictions import MASK, detector, distilled, of
from .test_d2_unlabeled import UNLABELED

SIZE = (320, 1056)  # so wide that bfloat16 is 4 pixels coarse at its right
BFLOAT16 = {"AMP": {"ENABLED": True, "PRECISION": "bf16"}}
TRUTH = [[901.3, 101.7, 917.9, 119.2], [700.6, 33.3, 777.7, 88.8]]
FLOATS = [torch.bfloat16, torch.float16]


def batch() -> list[dict]:
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = BitMasks(torch.ones(2, *SIZE, dtype=torch.bool))
    truth = {"gt_boxes": Boxes(TRUTH), "gt_classes": torch.arange(2), "gt_masks": masks}
    return [{"image": image, "height": SIZE[0], "width": SIZE[1], "instances": Instances(SIZE, **truth)}]


def poolings(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Grows by what every pooler of ``model`` gave, and what Detectron2's own gives of the same maps in float32."""
    pairs = []

    def look(pooler: ROIPooler, inputs: tuple, output: torch.Tensor) -> None:
        maps, boxes = inputs
        first = pooler.level_poolers[0]
        scales = [x.spatial_scale for x in pooler.level_poolers]
        own = ROIPooler(pooler.output_size, scales, first.sampling_ratio, "ROIAlignV2")
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            pairs.append((output.detach(), own([x.float() for x in maps], boxes)))

    for module in model.modules():
        if isinstance(module, ROIPooler):
            module.register_forward_hook(look)
    return pairs


def check(pairs: list, dtype: torch.dtype, count: int) -> None:
    assert len(pairs) == count
    for found, exact in pairs:
        assert found.dtype == dtype and len(found)
        assert float((found.float() - exact).norm() / exact.norm()) < 0.01


def of_student(model: nn.Module) -> dict:
    """Its own losses, by the road of training."""
    allow_single_values(model)
    return run_student(model, batch())


@pytest.mark.parametrize(("family", "count"), [("Mask R-CNN", 2), ("Cascade R-CNN", 3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_heads_are_trained_on_the_very_boxes_of_the_proposals(family, count, dtype):
    model = detector(family).train()
    pairs = poolings(model)
    with torch.autocast("cpu", dtype):
        losses = of_student(model)
    check(pairs, dtype, count)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_teachers_heads_see_the_students_boxes():
    model = of("Mask R-CNN", 1)
    model.teacher.precision = torch.bfloat16
    pairs = poolings(model.teacher.model)
    losses = distilled(model(batch()))
    check(pairs, torch.bfloat16, 2)
    assert all(value.isfinite() for value in losses.values())


def test_a_student_in_bfloat16_learns_from_heads_in_float32():
    model = of("Mask R-CNN", 1)
    model.teacher.precision = torch.float32
    pairs = poolings(model.student)
    with torch.autocast("cpu", torch.bfloat16):
        losses = distilled(model(batch()))
    check(pairs, torch.bfloat16, 2)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotated_regions_are_cut_exactly(dtype, data, tmp_path):
    """Detectron2's own takes no bfloat16 maps at all."""
    own = {"MODEL": {"ROI_BOX_HEAD": {"POOLER_TYPE": "ROIAlignRotated"}}}
    cfg = load_config(write_config(tmp_path, data, own, detector=FASTER_RCNN))
    align = student_of(cfg).roi_heads.box_pooler.level_poolers[0]
    maps = torch.randn(1, 4, 80, 264, generator=torch.Generator().manual_seed(0)).to(dtype)
    regions = torch.tensor([[0, 909.3, 110.7, 17.9, 19.2, 10.0]])
    found, exact = align(maps, regions), align(maps.float(), regions)
    assert found.dtype == dtype
    assert float((found.float() - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("base", [RETINANET, merged(FASTER_RCNN, {"MODEL": MASK})], ids=["RetinaNet", "Mask R-CNN"])
def test_in_float32_it_is_plain_detectron2_bit_for_bit(base, data, tmp_path):
    cfg = load_config(write_config(tmp_path, data, detector=base))
    ours = student_of(cfg)
    theirs = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    losses = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        losses.append(of_student(model.train()))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def pair(folder, data, *changes: dict, detector: dict) -> tuple[Distiller, list[dict]]:
    """The distiller of a config and its first batch."""
    cfg = load_config(write_pair(folder, data, *changes, detector=detector))
    return distiller_of(cfg).train(), next(iter(train_loader(cfg)))


@pytest.mark.parametrize(("solver", "precision"), [(BFLOAT16, "fp32"), ({}, "bf16"), (BFLOAT16, "")])
def test_heads_on_proposals_learn_whatever_the_precision_of_each_side(solver, precision, data, tmp_path):
    kd = {
        "TAPS": ["roi=roi_heads.box_predictor@vector"],
        "TEACHER": {"PRECISION": precision},
        "LOSSES": {"imitation": {"WEIGHT": 0.0}, "roi_kd": {"TAP": "roi", "BOX": "smooth_l1", "WEIGHT": 1.0}},
    }
    model, samples = pair(tmp_path, data, {"KD": kd, "SOLVER": solver}, detector=FASTER_RCNN)
    with forward_precision(load_config(str(tmp_path / "student.yaml")).SOLVER, "cpu"):
        losses = model(samples)
    found = losses["loss_roi_kd_classes"], losses["loss_roi_kd_boxes"]
    assert all(value.isfinite() and value > 0 for value in found)
    sum(losses.values()).backward()


@pytest.mark.parametrize("base", [RETINANET, FASTER_RCNN], ids=["RetinaNet", "Faster R-CNN"])
def test_a_teacher_in_bfloat16_finds_boxes_of_images_without_labels(base, data, tmp_path):
    more = {"DATASETS": {"CUSTOM": {"more": {"UNLABELED": str(data / "images")}}}}
    half = {"KD": {"TEACHER": {"PRECISION": "bf16"}}}
    model, samples = pair(tmp_path, data, UNLABELED, more, half, detector=base)
    assert model.teacher.precision == torch.bfloat16
    losses = model(samples)
    boxes = samples[2]["pseudo_boxes"]
    assert len(boxes) and not torch.equal(boxes, boxes.bfloat16().float())
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_takes_a_teacher_in_either_precision(precision, data, tmp_path):
    own = {"KD": {"TEACHER": {"PRECISION": precision}}, "SOLVER": BFLOAT16 | {"MAX_ITER": 1, "STEPS": []}}
    train(write_pair(tmp_path, data, own, detector=FASTER_RCNN))
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_a_copy_of_a_model_is_as_exact():
    model = copy.deepcopy(detector("Mask R-CNN")).eval()
    pairs = poolings(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model([{"image": batch()[0]["image"]}])
    check(pairs[:1], torch.bfloat16, 1)
