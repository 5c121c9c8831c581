"""The batch info of a batch: sizes, boxes, and the student's own anchors."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from torchvision.models.detection.image_list import ImageList

from kd2.distill import ConfigError, Distiller
from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.models import build_detector, dense_head
from kd2.engine.lightning.detection.step import detection_step

from ....helpers import tiny_detection as tiny

# Padded to 160 x 224: five by seven cells on P5, so that P6 and P7 do not divide evenly.
SIZES = [(67, 203), (150, 97)]
IMAGES = [torch.zeros(3, *size, dtype=torch.uint8) for size in SIZES]
BATCH = Batch(IMAGES, [{}, {}], [torch.ones(1, 4), torch.ones(2, 4)], [])

# Architectures, and one with the conventions of Detectron2.
each_kind = pytest.mark.parametrize("architecture", ["RetinaNet", "FasterRCNN", "detectron2"])


@pytest.fixture(scope="module")
def distillers():
    ratios = [[0.5, 1.0], [1.0, 2.0], [1.0, 2.0], [0.7, 1.3], [1.0, 2.0]]
    sizes = [[8.5], [17], [31.9], [64], [128]]
    changes = {"ANCHOR_GENERATOR": {"SIZES": sizes, "ASPECT_RATIOS": ratios}, "FPN": {"OUT_CHANNELS": 32}}
    names = ("RetinaNet", "FasterRCNN", "FCOS")
    configs = {name: tiny.config({"MODEL": {"META_ARCHITECTURE": name} | changes}) for name in names}
    configs["detectron2"] = tiny.config({"MODEL": {"CONVENTIONS": "detectron2"} | changes})
    students = {name: build_detector(cfg) for name, cfg in configs.items()}
    unlabeled = tiny.config().KD.UNLABELED
    steps = {name: detection_step(student, False, unlabeled) for name, student in students.items()}
    return {name: Distiller(student, batch_info=steps[name].batch_info) for name, student in students.items()}


def truth(student) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    """torchvision's anchors of the first image, level by level, and the sizes of the levels."""
    images, _ = student.eval().transform([x.float() for x in BATCH.images])
    assert images.tensors.shape[2:] == (160, 224)
    maps = list(student.backbone(images.tensors).values())
    generator = dense_head(student).anchor_generator
    sizes = [tuple(x.shape[2:]) for x in maps]
    counts = [h * w * k for (h, w), k in zip(sizes, generator.num_anchors_per_location())]
    return list(generator(images, maps)[0].split(counts)), sizes


@pytest.fixture
def unresized(distillers, monkeypatch):
    """The distillers, their students in eval mode without resizing."""
    for distiller in distillers.values():
        monkeypatch.setattr(distiller.student.transform, "resize", lambda image, target=None: (image, target))
    return distillers


@each_kind
def test_anchors_equal_torchvisions_exactly(unresized, architecture):
    distiller = unresized[architecture]
    expected, sizes = truth(distiller.student)
    grids = distiller.batch_info(BATCH).anchors(sizes)
    assert all(torch.equal(grid.dense().reshape(-1, 4), anchors) for grid, anchors in zip(grids, expected, strict=True))


@each_kind
def test_a_tap_may_leave_levels_out(unresized, architecture):
    distiller = unresized[architecture]
    expected, sizes = truth(distiller.student)
    grids = distiller.batch_info(BATCH).anchors([sizes[1], sizes[3]])
    assert [torch.equal(g.dense().reshape(-1, 4), a) for g, a in zip(grids, (expected[1], expected[3]))] == [True, True]


def test_maps_that_are_no_level_have_no_anchors(distillers):
    text = r"no anchors for a map of \(33, 33\) cells; the student's anchors lie on \[\(20, 28\)"
    with pytest.raises(ConfigError, match=text):
        distillers["RetinaNet"].batch_info(BATCH).anchors([(33, 33)])


def test_fcos_has_no_anchors(distillers):
    assert distillers["FCOS"].batch_info(BATCH).anchors is None


def test_the_batch_info_has_the_real_and_the_padded_sizes(distillers):
    batch_info = distillers["RetinaNet"].batch_info(BATCH)
    assert (batch_info.image_sizes, batch_info.padded_size) == (SIZES, (160, 224))


def test_the_padded_size_is_that_of_the_students_input(distillers):
    distiller = distillers["RetinaNet"]
    distiller.student.train()
    images, _ = distiller.student.transform([x.float() for x in BATCH.images])
    assert tuple(images.tensors.shape[2:]) == distiller.batch_info(BATCH).padded_size


def test_boxes_stay_the_loaders_own(distillers):
    assert distillers["RetinaNet"].batch_info(BATCH).boxes is BATCH.boxes


@pytest.mark.parametrize("architecture", ["RetinaNet", "FCOS", "FasterRCNN"])
def test_anchors_of_bfloat16_maps_are_float32(distillers, architecture):
    student = distillers[architecture].student
    generator = student.rpn.anchor_generator if architecture == "FasterRCNN" else student.anchor_generator
    maps = [torch.zeros(1, 4, 64 >> i, 96 >> i, dtype=torch.bfloat16) for i in range(5)]
    (anchors,) = generator(ImageList(torch.zeros(1, 3, 512, 768), [(512, 768)]), maps)
    assert anchors.dtype == torch.float32
    (exact,) = generator(ImageList(torch.zeros(1, 3, 512, 768), [(512, 768)]), [x.float() for x in maps])
    assert torch.equal(anchors, exact)
