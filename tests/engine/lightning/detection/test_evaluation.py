"""COCO average precision."""

import contextlib
import dataclasses
import io
import json
import math

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from kd2.engine.lightning.detection.data import load_all
from kd2.engine.lightning.detection.data import test_batches as batches_of
from kd2.engine.lightning.detection.evaluation import CocoEvaluator

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Folder, config and records of data with crowd and areas that are not those of the boxes."""
    folder = tmp_path_factory.mktemp("scored")
    content = tiny.write_data(folder / "data", sizes=[(200, 160), (120, 180), (96, 96), (128, 64)])
    for annotation in content["annotations"]:
        annotation["area"] = 40.0 * annotation["bbox"][2]
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][4]["area"] = 9300.0
    (folder / "data" / "coco.json").write_text(json.dumps(content))
    custom = {"tiny": {"JSON": str(folder / "data" / "coco.json"), "IMAGES": str(folder / "data" / "images")}}
    cfg = tiny.config({"DATASETS": {"CUSTOM": custom, "TEST": ["tiny"]}})
    return folder / "data", cfg, load_all(cfg, "TEST")[0]


class Oracle(nn.Module):
    """Knows the records of the batch; answers with their instances, moved by up to ``shift`` pixels."""

    def __init__(self, records: list[dict], shift: float = 0.0, masks: bool = False):
        super().__init__()
        self.records, self.masks = iter(records), masks
        self.draw, self.shift = np.random.RandomState(3), shift

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [self._answer(next(self.records), image.shape[1:]) for image in images]

    def _answer(self, record: dict, size) -> dict[str, torch.Tensor]:
        instances = [a for a in record["annotations"] if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in instances]).reshape(-1, 4)
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        boxes = boxes + torch.from_numpy(self.draw.uniform(0, self.shift, tuple(boxes.shape))).float()
        answer = {
            "boxes": boxes,
            "labels": torch.tensor([a["category_id"] for a in instances]),
            "scores": torch.from_numpy(self.draw.uniform(0.2, 1.0, len(boxes))).float(),
        }
        if self.masks:
            answer["masks"] = torch.zeros(len(boxes), 1, *size)
            for mask, (x1, y1, x2, y2) in zip(answer["masks"], boxes.int().tolist()):
                mask[0, y1:y2, x1:x2] = 0.9
        return answer


def evaluated(setting, **oracle) -> CocoEvaluator:
    _, cfg, records = setting
    evaluator = CocoEvaluator(records, masks=oracle.get("masks", False), limit=100)
    student = Oracle(records.records, **oracle)
    for batch in batches_of(cfg, records, rank=0, ranks=1):
        evaluator.process(batch, student(batch.images))
    return evaluator


def test_perfect_boxes_score_100(setting):
    metrics = evaluated(setting).evaluate()
    assert [metrics[f"bbox/{name}"] for name in ("AP", "AP50", "AP75")] == [100, 100, 100]


def test_perfect_masks_score_100(setting):
    metrics = evaluated(setting, masks=True).evaluate()
    assert [metrics[f"segm/{name}"] for name in ("AP", "AP50", "AP75")] == [100, 100, 100]


def test_a_trained_mask_rcnn_is_scored_by_boxes_and_masks(setting, tmp_path):
    changes = {"MODEL": {"META_ARCHITECTURE": "MaskRCNN"}, "DATASETS": {"TEST": ["tiny"]}}
    config = tiny.write_config(tmp_path, setting[0], changes)
    assert {"bbox/AP", "segm/AP"} <= set(runs.train(config, "SOLVER.MAX_ITER", "1"))


def test_a_detector_without_masks_has_no_mask_score(setting):
    assert not any(name.startswith("segm/") for name in evaluated(setting).evaluate())


def test_classes_are_scored_by_name(setting):
    metrics = evaluated(setting).evaluate()
    assert [metrics["bbox/AP-box"], metrics["bbox/AP-bar"]] == [100, 100]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_scores_equal_pycocotools_on_the_original_file(setting, kind):
    """Category ids, crowd and areas of the file count as they do there."""
    folder, _, _ = setting
    evaluator = evaluated(setting, shift=8.0, masks=True)
    ids = [2, 5]  # the file's numbers of the classes
    detections = [
        d | {"category_id": ids[d["category_id"]], "image_id": 10 + d["image_id"]} for d in evaluator.detections
    ]
    if kind == "segm":  # pycocotools would take the size of the box for that of the mask
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "coco.json"))
        reference = COCOeval(truth, truth.loadRes(detections), kind)
        reference.evaluate(), reference.accumulate(), reference.summarize()
    ours = evaluator.evaluate()
    expected = [100 * x if x >= 0 else math.nan for x in reference.stats[:6]]
    assert 5 < expected[0] < 95 and [ours[f"{kind}/{name}"] for name in NAMES] == pytest.approx(expected, nan_ok=True)


def test_sizes_that_the_data_lacks_are_nan(setting):
    """Only the third image has an object that counts as large."""
    folder, cfg, records = setting
    metrics = evaluated((folder, cfg, dataclasses.replace(records, records=records.records[:1]))).evaluate()
    assert math.isnan(metrics["bbox/APl"]) and not math.isnan(metrics["bbox/APs"])


@pytest.mark.parametrize("masks", [False, True])
def test_no_detections_score_0_where_there_is_something_to_find(setting, masks):
    evaluator = CocoEvaluator(setting[2], masks, limit=100)
    metrics = evaluator.evaluate()
    assert evaluator.names() == list(metrics)
    names = [f"{kind}/{name}" for kind in ("bbox", "segm")[: 1 + masks] for name in (*NAMES, "AP-box", "AP-bar")]
    assert metrics == dict.fromkeys(names, 0.0)


def test_a_class_without_objects_is_nan_and_does_not_count(setting):
    records = dataclasses.replace(setting[2], classes=(*setting[2].classes, "beam"))
    metrics = evaluated((setting[0], setting[1], records)).evaluate()
    assert math.isnan(metrics["bbox/AP-beam"]) and metrics["bbox/AP"] == 100


def test_every_rank_tests_its_own_share(setting):
    _, cfg, records = setting
    shares = [[b.records[0]["image_id"] for b in batches_of(cfg, records, rank, 3)] for rank in range(3)]
    assert shares == [[10, 13], [11], [12]]


def test_test_images_keep_their_size(setting):
    _, cfg, records = setting
    assert [tuple(b.images[0].shape[1:]) for b in batches_of(cfg, records, 0, 1)][:2] == [(200, 160), (120, 180)]
