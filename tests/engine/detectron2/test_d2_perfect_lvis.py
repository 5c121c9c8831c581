"""LVIS by Detectron2's names: a perfect prediction scores 100."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from kd2.distill import ConfigError
from kd2.engine.detectron2.data import register

from ...helpers.d2_builtin import built_in, found, scores
from ...helpers.d2_tiny import load_config, write_config

pytest_lvis = pytest.mark.skipif(importlib.util.find_spec("lvis") is None, reason="the package lvis is not installed")

HEIGHT, WIDTH = 120, 160
# Image -> (category id, x, y, width, height); 1 aerosol can is common, 3 airplane frequent.
PAINTED = {11: [(3, 10, 10, 60, 80), (1, 90, 20, 20, 20)], 22: [(3, 0, 0, 100, 110)]}


def write_lvis(root: Path, painted: dict = PAINTED) -> None:
    """lvis/lvis_v1_val.json with all 1203 categories; the pictures are COCO's train2017."""
    images = [
        {
            "id": i,
            "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "neg_category_ids": [2],
            "not_exhaustive_category_ids": [],
        }
        for i in painted
    ]
    annotations = [
        {
            "image_id": image,
            "category_id": category,
            "bbox": [x, y, w, h],
            "area": w * h,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for image, objects in painted.items()
        for category, x, y, w, h in objects
    ]
    annotations = [{"id": number + 1, **entry} for number, entry in enumerate(annotations)]
    categories = [{"frequency": "c", "synset": "x.n.01", "name": c["synonyms"][0], **c} for c in LVIS_CATEGORIES]
    (root / "lvis").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "lvis" / "lvis_v1_val.json").write_text(json.dumps(content))


def perfect(objects: list[tuple]) -> dict:
    masks = np.zeros((len(objects), HEIGHT, WIDTH))
    for mask, (_, x, y, w, h) in zip(masks, objects):
        mask[y : y + h, x : x + w] = 1
    boxes = [(x, y, x + w, y + h) for _, x, y, w, h in objects]
    return {"instances": found((HEIGHT, WIDTH), [category - 1 for category, *_ in objects], boxes, masks)}


@pytest.fixture
def config(data, tmp_path) -> str:
    return write_config(tmp_path, data)


def scored(config: str, root: Path, outputs: dict[int, dict], *options: str) -> dict[str, dict[str, float]]:
    with built_in(root):
        register(load_config(config), ["lvis_v1_val"])
        assert [record["image_id"] for record in DatasetCatalog.get("lvis_v1_val")] == list(outputs)
        return scores(config, "lvis_v1_val", [({"image_id": i}, output) for i, output in outputs.items()], *options)


@pytest_lvis
def test_perfect_boxes_and_masks_score_100(config, tmp_path):
    write_lvis(tmp_path)
    results = scored(config, tmp_path, {image: perfect(objects) for image, objects in PAINTED.items()})
    assert set(results) == {"bbox", "segm"}
    for task in results.values():
        known = {name: task[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APc", "APf")}
        assert known == pytest.approx(dict.fromkeys(known, 100), abs=1e-6)
        assert math.isnan(task["APr"])  # nothing rare is there


@pytest_lvis
def test_a_model_that_finds_nothing_scores_0_where_there_is_something_and_nan_elsewhere(config, tmp_path):
    write_lvis(tmp_path)
    for task in scored(config, tmp_path, dict.fromkeys(PAINTED, perfect([]))).values():
        assert task["AP"] == task["APs"] == task["APf"] == 0 and math.isnan(task["APr"])


@pytest_lvis
@pytest.mark.parametrize("limit", [100, 300])
def test_an_image_is_scored_with_as_many_objects_as_the_model_may_give(config, tmp_path, limit):
    crowd = [(3, x, y, 4, 4) for y in range(0, HEIGHT, 5) for x in range(0, WIDTH, 5)][:300]
    write_lvis(tmp_path, {5: crowd})
    results = scored(config, tmp_path, {5: perfect(crowd)}, "TEST.DETECTIONS_PER_IMAGE", str(limit))
    recalled = np.count_nonzero(np.linspace(0, 1, 101) <= limit / 300)
    assert results["bbox"]["AP"] == pytest.approx(100 * recalled / 101, abs=1e-6)


def test_a_missing_package_is_named_before_anything_is_read(config, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with built_in(tmp_path), pytest.raises(ConfigError, match="DATASETS: 'lvis_v1_val': .* needs the package lvis"):
        register(load_config(config), ["lvis_v1_val"])
