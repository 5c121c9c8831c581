"""Panoptic FPN: losses on the pyramid and on the segmentation head in one run."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import json

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.models import own_losses

from ...helpers.d2_tiny import (
    FASTER_RCNN,
    SIZES,
    distiller_of,
    load_config,
    merged,
    save_model,
    train,
    weights,
    write_config,
)

TAPS = ["fpn=backbone:p2,p3,p4,p5", "score=sem_seg_head.predictor"]
PANOPTIC = merged(
    FASTER_RCNN,
    {
        "MODEL": {
            "META_ARCHITECTURE": "PanopticFPN",
            "MASK_ON": True,
            "SEM_SEG_HEAD": {"NUM_CLASSES": 3, "CONVS_DIM": 32, "NORM": "GN", "LOSS_WEIGHT": 0.5},
            "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 7},
        },
        "DATASETS": {"TRAIN": ["drawn_panoptic"]},
        "KD": {"TAPS": TAPS},
    },
)
LOSSES = {"imitation": {"WEIGHT": 0.0001}, "mgd": {"WEIGHT": 0.0001}, "pixelwise": {"TAP": "score", "WEIGHT": 1.0}}


def register_drawn(data, folder) -> None:
    """The tiny boxes with outlines, beside label files: 0 on the things, 1 above and 2 below the middle."""
    content = json.loads((data / "coco.json").read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (folder / "drawn.json").write_text(json.dumps(content))
    for number, (height, width) in enumerate(SIZES):
        labels = np.full((height, width), 1, np.uint8)
        labels[height // 2 :] = 2
        for annotation in content["annotations"]:
            if annotation["image_id"] == 10 + number:
                x, y, w, h = annotation["bbox"]
                labels[y : y + h, x : x + w] = 0
        Image.fromarray(labels).save(folder / f"{number}.png")

    def records() -> list[dict]:
        found = load_coco_json(str(folder / "drawn.json"), str(data / "images"), "drawn_panoptic")
        return [{**record, "sem_seg_file_name": str(folder / f"{record['image_id'] - 10}.png")} for record in found]

    DatasetCatalog.register("drawn_panoptic", records)
    MetadataCatalog.get("drawn_panoptic").set(stuff_classes=["things", "top", "bottom"], ignore_label=255)


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("panoptic")
    register_drawn(data, folder)
    wide = {"MODEL": {"FPN": {"OUT_CHANNELS": 32}}, "SEED": 3}
    save_model(load_config(write_config(folder, data, wide, name="teacher", detector=PANOPTIC)), folder / "teacher.pth")
    source = {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": str(folder / "teacher.pth")}
    yield write_config(folder, data, {"KD": {"TEACHER": source, "LOSSES": LOSSES}}, detector=PANOPTIC)
    DatasetCatalog.remove("drawn_panoptic")
    MetadataCatalog.remove("drawn_panoptic")


def test_one_step_has_the_students_losses_and_losses_of_both_kinds(config):
    cfg = load_config(config)
    model = distiller_of(cfg)
    losses = model(next(iter(train_loader(cfg))))
    own = {"loss_sem_seg", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert own_losses(model.student) == own
    assert set(losses) == own | {"loss_imitation", "loss_mgd", "loss_pixelwise"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.losses.parameters())
    assert model.student.sem_seg_head.predictor.weight.grad.any()


def test_the_batch_info_knows_boxes_anchors_and_classes_of_pixels(config):
    cfg = load_config(config)
    batch = next(iter(train_loader(cfg)))
    batch_info = distiller_of(cfg).batch_info(batch)
    assert batch_info.labels.shape == (2, *batch_info.padded_size) and batch_info.images().shape == (
        2,
        3,
        *batch_info.padded_size,
    )
    assert batch_info.anchors is not None
    for labels, boxes in zip(batch_info.labels, batch_info.boxes):
        x, y = ((boxes[0, :2] + boxes[0, 2:]) / 2).int().tolist()
        assert labels[y, x] == 0


def test_ignored_pixels_alone_leave_the_detectors_losses(config):
    cfg = load_config(config)
    batch = [{**x, "sem_seg": torch.full_like(x["sem_seg"], 255)} for x in next(iter(train_loader(cfg)))]
    losses = distiller_of(cfg)(batch)
    assert losses["loss_sem_seg"] == 0 < losses["loss_rpn_cls"]


def test_it_trains_to_a_checkpoint(config):
    train(config, "SOLVER.MAX_ITER", "1")
    assert "sem_seg_head.predictor.weight" in weights(load_config(config).OUTPUT_DIR)
