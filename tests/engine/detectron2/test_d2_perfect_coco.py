"""Boxes, masks and keypoints by Detectron2's names of COCO: a perfect prediction scores 100."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import contextlib
import json
import math
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, COCO_PERSON_KEYPOINT_NAMES

from kd2.distill import ConfigError
from kd2.engine.detectron2.evaluators import check_keypoints

from ...helpers.d2_builtin import built_in, found, scores
from ...helpers.d2_tiny import load_config, write_config

HEIGHT, WIDTH = 120, 160
THINGS = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
# Image id -> (category id, x, y, width, height); ids as in COCO, with gaps and without order.
PAINTED = {
    397133: [(90, 4, 6, 100, 100), (1, 30, 20, 40, 50), (1, 110, 70, 12, 20)],
    285: [(1, 10, 10, 60, 80)],
}
SKELETON = len(COCO_PERSON_KEYPOINT_NAMES)


def write_coco(root: Path, painted: dict = PAINTED, kind: str = "instances", categories: list = THINGS) -> None:
    """coco/annotations/``kind``_val2017.json as the consortium publishes it; evaluators open no picture."""
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in painted]
    annotations = []
    for image, objects in painted.items():
        for category, x, y, w, h in objects:
            pose = {"keypoints": keypoints_of(x, y).ravel().tolist(), "num_keypoints": SKELETON}
            annotations.append({
                "id": 1000 + 7 * len(annotations), "image_id": image, "category_id": category, "iscrowd": 0,
                "bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                **(pose if kind == "person_keypoints" else {}),
            })  # fmt: skip
    folder = root / "coco" / "annotations"
    folder.mkdir(parents=True)
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (folder / f"{kind}_val2017.json").write_text(json.dumps(content))


def keypoints_of(x: int, y: int) -> np.ndarray:
    """A person's points (17, 3) as COCO counts them: x and y of pixels, 2 for visible."""
    steps = np.arange(SKELETON)
    return np.stack([x + steps % 5, y + 3 * steps, np.full(SKELETON, 2)], 1)


def perfect(objects: list[tuple], ids: list[int], keypoints: bool = False) -> dict:
    boxes = [(x, y, x + w, y + h) for _, x, y, w, h in objects]
    masks = np.zeros((len(objects), HEIGHT, WIDTH))
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    # A model's points lie in the middle of pixels.
    points = np.array([keypoints_of(x, y) for _, x, y, _, _ in objects]) + [0.5, 0.5, 0] if keypoints else None
    classes = [ids.index(category) for category, *_ in objects]
    return {"instances": found((HEIGHT, WIDTH), classes, boxes, None if keypoints else masks, points)}


@pytest.fixture
def config(data, tmp_path) -> str:
    return write_config(tmp_path, data)


def test_perfect_boxes_and_masks_score_100(config, tmp_path):
    write_coco(tmp_path)
    ids = [c["id"] for c in THINGS]
    pairs = [({"image_id": image}, perfect(objects, ids)) for image, objects in PAINTED.items()]
    with built_in(tmp_path):
        found_scores = scores(config, "coco_2017_val", pairs)
    for task in ("bbox", "segm"):
        known = {name: found_scores[task][name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
        assert known == pytest.approx(dict.fromkeys(known, 100), abs=1e-6)
        assert found_scores[task]["AP-person"] == pytest.approx(100) and math.isnan(found_scores[task]["AP-car"])


def test_perfect_keypoints_score_100(config, tmp_path):
    persons = {image: [o for o in objects if o[0] == 1] for image, objects in PAINTED.items()}
    write_coco(tmp_path, persons, "person_keypoints", [{"id": 1, "name": "person"}])
    pairs = [({"image_id": image}, perfect(objects, [1], keypoints=True)) for image, objects in persons.items()]
    with built_in(tmp_path):
        DatasetCatalog.get("keypoints_coco_2017_val")  # Detectron2 knows the ids of persons from then on
        found_scores = scores(config, "keypoints_coco_2017_val", pairs)
    assert {"bbox", "keypoints"} == set(found_scores)
    for task, names in {"bbox": ["AP", "APs", "APm"], "keypoints": ["AP", "AP50", "APm"]}.items():
        for name in names:
            assert found_scores[task][name] == pytest.approx(100, abs=1e-6), (task, name)


def crowded(count: int) -> list[tuple]:
    return [(1, x, y, 4, 4) for y in range(0, HEIGHT, 5) for x in range(0, WIDTH, 5)][:count]


@pytest.mark.parametrize("limit", [100, 300])
def test_an_image_is_scored_with_as_many_objects_as_the_model_may_give(config, tmp_path, limit):
    write_coco(tmp_path, {7: crowded(300)})
    with built_in(tmp_path):
        pairs = [({"image_id": 7}, perfect(crowded(300), [c["id"] for c in THINGS]))]
        ap = scores(config, "coco_2017_val", pairs, "TEST.DETECTIONS_PER_IMAGE", str(limit))["bbox"]["AP"]
    recalled = np.count_nonzero(np.linspace(0, 1, 101) <= limit / 300)  # of COCO's 101 recalls
    assert ap == pytest.approx(100 * recalled / 101, abs=1e-6)


def test_a_model_that_finds_nothing_scores_0_where_there_is_something_and_nan_elsewhere(config, tmp_path):
    write_coco(tmp_path, {285: PAINTED[285], 286: []})
    nothing = perfect([], [])
    with built_in(tmp_path):
        found_scores = scores(config, "coco_2017_val", [({"image_id": i}, nothing) for i in (285, 286)])
    for task in ("bbox", "segm"):
        assert {name for name, x in found_scores[task].items() if x == 0} == {"AP", "AP50", "AP75", "APm", "AP-person"}
        assert math.isnan(found_scores[task]["APs"]) and math.isnan(found_scores[task]["AP-car"])


@pytest.mark.parametrize(("sigmas", "fits"), [("[]", False), ("[0.1, 0.2]", True), ("[0.1]", False)])
def test_sigmas_for_another_number_of_keypoints_are_refused_before_training(config, sigmas, fits):
    options = ["MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "2", "DATASETS.TEST", "('x',)"]
    cfg = load_config(config, [*options, "TEST.KEYPOINT_OKS_SIGMAS", sigmas])
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match="TEST.KEYPOINT_OKS_SIGMAS has"):
        check_keypoints(cfg)


def test_the_sigmas_of_the_config_score_keypoints(config, tmp_path):
    """Points that lie off by their person's size score only with wide sigmas."""
    persons = {285: [(1, 10, 10, 60, 80)]}
    write_coco(tmp_path, persons, "person_keypoints", [{"id": 1, "name": "person"}])
    output = perfect(persons[285], [1], keypoints=True)
    output["instances"].pred_keypoints[:, :, :2] += 20
    wide = str([2.0] * SKELETON)
    with built_in(tmp_path):
        DatasetCatalog.get("keypoints_coco_2017_val")
        pairs = [({"image_id": 285}, output)]
        ap = scores(config, "keypoints_coco_2017_val", pairs, "TEST.KEYPOINT_OKS_SIGMAS", wide)["keypoints"]["AP"]
        assert ap == pytest.approx(100)
        assert scores(config, "keypoints_coco_2017_val", pairs)["keypoints"]["AP"] < 50
