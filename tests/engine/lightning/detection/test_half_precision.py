"""Boxes in mixed precision: as exact as in float32, wherever torchvision would round them."""

import contextlib
from collections.abc import Iterator

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image

from kd2.distill import BoxCoder
from kd2.engine.lightning.detection.models import build_detector
from kd2.engine.mixed_precision import forward_precision
from kd2.networks.group_norm import allow_single_values
from kd2.ops.boxes import decode

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers import torchvision_files
from .test_unlabeled import UNLABELED

SIZE = (320, 1056)  # so wide that bfloat16 is 4 pixels coarse at its right
BFLOAT16 = {"AMP": {"ENABLED": True, "PRECISION": "bf16"}}
ALL = {"RETINANET": {"SCORE_THRESH_TEST": 0.0}, "ROI_HEADS": {"SCORE_THRESH_TEST": 0.0}}
EXACT = 0.01  # of a pixel
TRUTH = torch.tensor([[901.3, 101.7, 917.9, 119.2], [700.6, 33.3, 777.7, 88.8]])
NETWORKS = ["RetinaNet", "FCOS", "FasterRCNN", "MaskRCNN"]
CONVENTIONS = [*((name, "torchvision") for name in NETWORKS), ("RetinaNet", "detectron2"), ("MaskRCNN", "detectron2")]


def detector(architecture: str, conventions: str = "torchvision") -> nn.Module:
    """One that finds whatever it can, for images in the size that they have."""
    own = {"META_ARCHITECTURE": architecture, "CONVENTIONS": conventions, "FPN": {"OUT_CHANNELS": 32}}
    torch.manual_seed(0)
    model = build_detector(tiny.config({"MODEL": runs.merged(ALL, own)}))
    model.transform.resize = lambda image, target=None: (image, target)
    allow_single_values(model)
    return model


def image() -> Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def farthest(found: Tensor, candidates: Tensor) -> float:
    """Pixels from the worst of the boxes ``found`` to the nearest of ``candidates``."""
    assert len(found) and found.dtype == torch.float32
    return max(float((candidates - box).abs().amax(1).min()) for box in found)


@contextlib.contextmanager
def decodings(model: nn.Module, size: tuple[int, int]) -> Iterator[list[Tensor]]:
    """All boxes (M, 4) that the last head of ``model`` says inside the block, decoded in float32, of the last image."""
    seen: dict[str, Tensor] = {}
    boxes: list[Tensor] = []

    def keep(name: str, what) -> None:
        seen[name] = what
        if {"anchors", "numbers"} <= seen.keys():
            anchors, numbers = seen["anchors"].float(), seen["numbers"].float()
            coder = BoxCoder("distances") if isinstance(model, FCOS) else BoxCoder("deltas", _coder(model).weights)
            boxes[:] = [clip_boxes_to_image(decode(coder, numbers, anchors).reshape(-1, 4), size)]

    if isinstance(model, FasterRCNN):
        handles = [
            model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, x: keep("anchors", x[1][-1][:, None])),
            model.roi_heads.box_predictor.register_forward_hook(
                lambda _, __, x: keep("numbers", x[1].unflatten(1, (-1, 4))[-len(seen["anchors"]) :])
            ),
        ]
    else:
        handles = [
            model.head.register_forward_hook(lambda _, __, x: keep("numbers", x["bbox_regression"][-1])),
            model.anchor_generator.register_forward_hook(lambda _, __, x: keep("anchors", x[-1])),
        ]
    try:
        yield boxes
    finally:
        for handle in handles:
            handle.remove()


def _coder(model: nn.Module):
    return model.roi_heads.box_coder if isinstance(model, FasterRCNN) else model.box_coder


@pytest.mark.parametrize(("architecture", "conventions"), CONVENTIONS)
@torch.no_grad()
def test_detections_are_what_the_heads_say(architecture, conventions):
    model = detector(architecture, conventions).eval()
    with half(), decodings(model, SIZE) as boxes:
        (found,) = model([image()])
    assert farthest(found["boxes"], boxes[0]) < EXACT


@torch.no_grad()
def test_proposals_are_what_the_rpn_says():
    model, seen = detector("FasterRCNN").eval(), {}
    model.rpn.head.register_forward_hook(lambda _, __, x: seen.update(numbers=concat_box_prediction_layers(*x)[1]))
    model.rpn.anchor_generator.register_forward_hook(lambda _, __, x: seen.update(anchors=x[0]))
    model.rpn.register_forward_hook(lambda _, __, x: seen.update(proposals=x[0][0]))
    with half():
        model([image()])
    assert seen["numbers"].dtype == torch.bfloat16
    expected = clip_boxes_to_image(decode(BoxCoder(), seen["numbers"].float(), seen["anchors"]), SIZE)
    assert farthest(seen["proposals"], expected) < EXACT


@pytest.mark.parametrize("architecture", ["FasterRCNN", "MaskRCNN"])
def test_the_heads_are_trained_on_the_very_boxes_of_the_truth(architecture):
    model, seen = detector(architecture).train(), []
    model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, x: seen.append(x[1][0]))
    masks = torch.ones(2, *SIZE, dtype=torch.uint8)
    with half():
        losses = model([image()], [{"boxes": TRUTH, "labels": torch.tensor([1, 2]), "masks": masks}])
    assert all(float((seen[0] - box).abs().amax(1).min()) == 0 for box in TRUTH)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_fcos_compares_the_boxes_that_its_head_says():
    model, losses = detector("FCOS").train(), []
    own = model.head.compute_loss

    def twice(targets, outputs, *others):
        losses.append(own(targets, outputs, *others))
        with torch.autocast("cpu", enabled=False):
            losses.append(own(targets, {name: x.float() for name, x in outputs.items()}, *others))
        return losses[0]

    model.head.compute_loss = twice
    with half():
        model([image()], [{"boxes": TRUTH, "labels": torch.tensor([0, 1])}])
    rounded, exact = (x["bbox_regression"] for x in losses)
    torch.testing.assert_close(rounded, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", [name for name in NETWORKS if name != "MaskRCNN"])  # 30 s in float16
def test_float16_takes_the_same_road(architecture):
    model = detector(architecture).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.float16), decodings(model, SIZE) as boxes:
        (found,) = model([image()])
    assert farthest(found["boxes"], boxes[0]) < EXACT


def published_config(folder, data, builder: str, *changes: dict) -> str:
    """A student that mimics a detector of torchvision in bfloat16."""
    torchvision_files.write(builder, folder / "zoo.pth", num_classes=3)
    source = {"CONFIG_FILE": f"torchvision://{builder}", "WEIGHTS": str(folder / "zoo.pth"), "PRECISION": "bf16"}
    own = {"KD": {"TAPS": ["fpn=backbone:0"], "TEACHER": source, "LOSSES": {"mimic": {"RESIZE": "student"}}}}
    for change in changes:
        own = runs.merged(own, change)
    return tiny.write_config(folder, data, own)


@pytest.mark.parametrize(
    "builder",
    [
        "ssdlite320_mobilenet_v3_large",
        pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("fasterrcnn_mobilenet_v3_large_fpn", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_published_detectors_are_as_exact(builder, tmp_path, data):
    run = runs.experiment(published_config(tmp_path, data, builder))
    run.build_student()
    model = run.build_teacher().module.eval()
    if isinstance(model, FasterRCNN):
        model.roi_heads.score_thresh = 0.0
    else:
        model.score_thresh = 0.0
    with half(), decodings(model, SIZE) as boxes:
        (found,) = model([image()])
    assert farthest(found["boxes"], boxes[0]) < EXACT


@torch.no_grad()
def test_default_boxes_of_bfloat16_maps_are_float32(tmp_path, data):
    run = runs.experiment(published_config(tmp_path, data, "ssdlite320_mobilenet_v3_large"))
    run.build_student()
    generator = run.build_teacher().module.anchor_generator
    images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])
    maps = [torch.zeros(1, 1, max(20 >> i, 1), max(66 >> i, 1)) for i in range(6)]
    (exact,), (found,) = generator(images, maps), generator(images, [x.bfloat16() for x in maps])
    assert torch.equal(found, exact)


@pytest.mark.parametrize("architecture", ["RetinaNet", "FasterRCNN"])
def test_a_teacher_in_bfloat16_finds_exact_boxes_of_images_without_labels(
    architecture, tmp_path, data, teacher, rcnn_teacher
):
    own = {
        "MODEL": {"META_ARCHITECTURE": architecture},
        "DATASETS": {"CUSTOM": {"more": {"UNLABELED": str(data / "images")}}},
        "KD": {"TEACHER": {"PRECISION": "bf16"}},
    }
    source = teacher if architecture == "RetinaNet" else rcnn_teacher
    config = tiny.write_config(tmp_path, data, tiny.distilled(source, runs.merged(UNLABELED, own)))
    distiller, batch = runs.distiller(config), runs.first_batch(config)
    assert distiller.teacher.precision == torch.bfloat16
    with decodings(distiller.teacher.model, tuple(batch.images[2].shape[1:])) as boxes:
        losses = distiller(batch)
    assert farthest(batch.boxes[2], boxes[0]) < EXACT
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(("solver", "precision"), [(BFLOAT16, "fp32"), ({}, "bf16"), (BFLOAT16, "")])
@pytest.mark.parametrize("architecture", ["FasterRCNN", "MaskRCNN"])
def test_heads_on_proposals_learn_whatever_the_precision_of_each_side(
    architecture, solver, precision, tmp_path, data, rcnn_teacher
):
    kd = {
        "TAPS": ["roi=roi_heads.box_predictor@vector"],
        "TEACHER": {"PRECISION": precision},
        "LOSSES": {"imitation": {"WEIGHT": 0.0}, "roi_kd": {"TAP": "roi", "BOX": "smooth_l1", "WEIGHT": 1.0}},
    }
    own = {"MODEL": {"META_ARCHITECTURE": architecture}, "KD": kd, "SOLVER": solver}
    config = tiny.write_config(tmp_path, data, tiny.distilled(rcnn_teacher, own))
    model, batch, amp = runs.distiller(config), runs.first_batch(config), runs.experiment(config).cfg.SOLVER
    with forward_precision(amp, "cpu"):
        losses = model(batch)
    found = losses["loss_roi_kd_classes"], losses["loss_roi_kd_boxes"]
    assert all(value.isfinite() and value > 0 for value in found)
    sum(losses.values()).backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_takes_a_teacher_in_either_precision(precision, tmp_path, data, teacher):
    own = {"KD": {"TEACHER": {"PRECISION": precision}}, "SOLVER": BFLOAT16 | {"MAX_ITER": 2, "STEPS": []}}
    runs.train(tiny.write_config(tmp_path, data, tiny.distilled(teacher, own)))
    assert runs.checkpoint(tmp_path / "out")["iteration"] == 1
