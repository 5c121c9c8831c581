"""Panoptic quality by Detectron2's names of COCO and Cityscapes: a perfect prediction scores 100."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")
pytest.importorskip("cityscapesscripts", reason="panoptic quality needs cityscapesscripts")

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from kd2.distill import ConfigError, DataError
from kd2.engine.detectron2.evaluators import check_evaluators

from ...helpers.d2_builtin import built_in, found, scores
from ...helpers.d2_tiny import write_config
from .test_d2_perfect_coco import HEIGHT, THINGS, WIDTH, write_coco

# Segments as (category id, x1, y1, x2, y2), later ones over earlier: a car, two persons before grass and sky.
GRASS, SKY = 193, 187
PAINTED = {
    42: [
        (SKY, 0, 0, 160, 60), (GRASS, 0, 60, 160, 120),
        (3, 5, 70, 65, 110), (1, 80, 30, 100, 100), (1, 120, 20, 150, 90),
    ],
    139: [(GRASS, 0, 0, 160, 100)],  # the rest has no label
}  # fmt: skip
NAMES = ["coco_2017_val_panoptic", "coco_2017_val_panoptic_separated"]


def segments(painted: list[tuple]) -> np.ndarray:
    """Map of segment numbers from 1, 0 where there is none."""
    numbers = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, (_, x1, y1, x2, y2) in enumerate(painted):
        numbers[y1:y2, x1:x2] = number + 1
    return numbers


def colors(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], 2).astype(np.uint8))


def write_panoptic(root: Path, stuff: dict[int, int]) -> None:
    """Annotations, PNG files of segments, label files of stuff, and empty pictures, in COCO's folders."""
    boxes = {
        image: [(c, x1, y1, x2 - x1, y2 - y1) for c, x1, y1, x2, y2 in painted if c not in (GRASS, SKY)]
        for image, painted in PAINTED.items()
    }
    write_coco(root, boxes)
    coco = root / "coco"
    for folder in ("val2017", "panoptic_val2017", "panoptic_stuff_val2017"):
        (coco / folder).mkdir()
    annotations = []
    for image, painted in PAINTED.items():
        numbers, infos, labels = segments(painted), [], np.full((HEIGHT, WIDTH), 255, np.uint8)
        ids = np.zeros_like(numbers)
        for number, (category, *_) in enumerate(painted):
            mask = numbers == number + 1
            ids[mask] = 70000 + number
            labels[mask] = stuff.get(category, 0)
            infos.append({"id": 70000 + number, "category_id": category, "area": int(mask.sum()), "iscrowd": 0})
        colors(ids).save(coco / "panoptic_val2017" / f"{image:012d}.png")
        Image.fromarray(labels).save(coco / "panoptic_stuff_val2017" / f"{image:012d}.png")
        Image.new("RGB", (WIDTH, HEIGHT)).save(coco / "val2017" / f"{image:012d}.jpg")
        annotations.append({"image_id": image, "file_name": f"{image:012d}.png", "segments_info": infos})
    categories = [{**c, "isthing": 1} for c in THINGS] + [
        {"id": number, "name": str(number), "isthing": 0} for number in (SKY, GRASS)
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in PAINTED]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (coco / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))


def perfect(painted: list[tuple], things: dict[int, int], stuff: dict[int, int], classes: int) -> dict:
    """All that Panoptic FPN returns of an image: instances, segments, scores of classes."""
    numbers, infos = segments(painted), []
    for number, (category, *_) in enumerate(painted):
        thing = category in things
        infos.append({"id": number + 1, "isthing": thing, "category_id": (things if thing else stuff)[category]})
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, (category, *_) in enumerate(painted):
        labels[numbers == number + 1] = stuff.get(category, 0)
    objects = [(number, o) for number, o in enumerate(painted) if o[0] in things]
    masks = np.zeros((len(objects), HEIGHT, WIDTH))
    for mask, (_, (_, x1, y1, x2, y2)) in zip(masks, objects):
        mask[y1:y2, x1:x2] = 1
    return {
        "panoptic_seg": (torch.from_numpy(numbers), infos),
        "instances": found((HEIGHT, WIDTH), [things[o[0]] for _, o in objects], [o[1:] for _, o in objects], masks),
        "sem_seg": torch.nn.functional.one_hot(torch.from_numpy(labels), classes).permute(2, 0, 1),
    }


@pytest.fixture
def config(data, tmp_path) -> str:
    return write_config(tmp_path, data)


@pytest.fixture
def coco(tmp_path):
    """Below it COCO panoptic; Detectron2's names lead there."""
    with built_in(tmp_path):
        write_panoptic(tmp_path, MetadataCatalog.get(NAMES[1]).stuff_dataset_id_to_contiguous_id)
        yield tmp_path


def outputs(name: str) -> list[tuple[dict, dict]]:
    metadata, records = MetadataCatalog.get(name), DatasetCatalog.get(name)
    maps = metadata.thing_dataset_id_to_contiguous_id, metadata.stuff_dataset_id_to_contiguous_id
    return [(r, perfect(PAINTED[r["image_id"]], *maps, len(metadata.stuff_classes))) for r in records]


@pytest.mark.parametrize("name", NAMES)
def test_perfect_segments_instances_and_stuff_score_100(config, coco, name):
    results = scores(config, name, outputs(name))
    quality = results["panoptic_seg"]
    assert len(quality) == 9 and quality == pytest.approx(dict.fromkeys(quality, 100), abs=1e-6)
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100, abs=1e-6)
    assert ("sem_seg" in results) == name.endswith("separated")
    if "sem_seg" in results:
        assert results["sem_seg"]["mIoU"] == pytest.approx(100, abs=1e-6)


def test_a_segment_of_a_class_that_never_occurs_changes_no_mean(config, coco):
    pairs = outputs(NAMES[1])
    for _, output in pairs:
        numbers, infos = output["panoptic_seg"]
        numbers[110:, 100:] = 50
        infos.append({"id": 50, "isthing": True, "category_id": 70})
    quality = scores(config, NAMES[1], pairs)["panoptic_seg"]
    assert quality["PQ_th"] == pytest.approx(100) and 0 < quality["PQ_st"] < 100


def test_a_kind_without_ground_truth_is_nan(config, coco):
    file = coco / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 139]
    file.write_text(json.dumps(content))
    pairs = [(given, output) for given, output in outputs(NAMES[1]) if given["image_id"] == 139]
    quality = scores(config, NAMES[1], pairs)["panoptic_seg"]
    assert quality["PQ"] == quality["PQ_st"] == pytest.approx(100) and math.isnan(quality["PQ_th"])


def test_files_that_only_the_evaluation_reads_are_missed_before_training(coco):
    (coco / "coco" / "annotations" / "panoptic_val2017.json").unlink()
    with pytest.raises(DataError, match="needs .*panoptic_val2017.json, which does not exist"):
        check_evaluators([NAMES[1]])


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "panopticapi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        built_in(tmp_path),
        pytest.raises(ConfigError, match="DATASETS.TEST: 'coco_2017_val_panoptic': .* the package cityscapesscripts"),
    ):
        check_evaluators([NAMES[0]])
