"""Cityscapes by Detectron2's names, and by an entry of DATASETS.CUSTOM: a perfect prediction scores 100."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")
pytest.importorskip("cityscapesscripts", reason="Detectron2's evaluators of Cityscapes need cityscapesscripts")

import contextlib
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import torch
from cityscapesscripts.helpers.labels import labels as CLASSES
from cityscapesscripts.helpers.labels import name2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from kd2.distill import ConfigError, DataError
from kd2.engine.detectron2.data import check_readable, register
from kd2.engine.detectron2.evaluators import check_evaluators

from ...helpers.d2_builtin import built_in, found, scores
from ...helpers.d2_semantic import semantic_config
from ...helpers.d2_tiny import load_config

HEIGHT, WIDTH = 96, 192
TRAIN_IDS = np.array([label.trainId if label.trainId >= 0 else 255 for label in CLASSES if label.id >= 0], np.uint8)
# City -> objects as (class, x1, y1, x2, y2), later ones over earlier.
PAINTED = {
    "aachen": [("road", 0, 48, 192, 96), ("sky", 0, 0, 192, 48), ("car", 10, 30, 70, 80), ("car", 80, 40, 120, 90)],
    "bochum": [("building", 0, 0, 192, 90), ("person", 20, 20, 60, 80), ("rider", 90, 10, 150, 70)],
}


def stem(city: str) -> str:
    return f"{city}_000000_000019"


def drawn(city: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of classes and of instances; unlabeled pixels, 0, are left below."""
    ids, instances = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.int32)
    for number, (name, x1, y1, x2, y2) in enumerate(PAINTED[city]):
        ids[y1:y2, x1:x2] = name2label[name].id
        instances[y1:y2, x1:x2] = name2label[name].id * 1000 + number if name2label[name].hasInstances else ids[y1, x1]
    return ids, instances


def write_cityscapes(root: Path, kinds: tuple[str, ...] = ("labelIds", "labelTrainIds")) -> None:
    """leftImg8bit and gtFine of the split val."""
    for city in PAINTED:
        ids, instances = drawn(city)
        pictures, truth = (root / "cityscapes" / part / "val" / city for part in ("leftImg8bit", "gtFine"))
        pictures.mkdir(parents=True)
        truth.mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(pictures / f"{stem(city)}_leftImg8bit.png")
        for kind, pixels in {"labelIds": ids, "labelTrainIds": TRAIN_IDS[ids]}.items():
            if kind in kinds:
                Image.fromarray(pixels).save(truth / f"{stem(city)}_gtFine_{kind}.png")
        Image.fromarray(instances.astype(np.uint16)).save(truth / f"{stem(city)}_gtFine_instanceIds.png")
        corners = [(n, [[a, b], [c - 1, b], [c - 1, d - 1], [a, d - 1]]) for n, a, b, c, d in PAINTED[city]]
        objects = [{"label": name, "polygon": polygon} for name, polygon in corners]
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        (truth / f"{stem(city)}_gtFine_polygons.json").write_text(json.dumps(content))


def segmented(city: str) -> dict:
    """Scores of the 19 classes, (19, H, W); where nothing is labeled it says road."""
    classes = torch.from_numpy(TRAIN_IDS[drawn(city)[0]].astype(np.int64))
    return {"sem_seg": torch.nn.functional.one_hot(classes.where(classes < 19, 0), 19).permute(2, 0, 1)}


def instances(city: str, names: list[str]) -> dict:
    _, ids = drawn(city)
    numbers = [i for i in np.unique(ids) if i >= 1000]
    masks = np.stack([ids == i for i in numbers])
    boxes = [(m.any(0).argmax(), m.any(1).argmax(), 1, 1) for m in masks]
    by_id = {label.id: label.name for label in CLASSES}
    return {"instances": found((HEIGHT, WIDTH), [names.index(by_id[i // 1000]) for i in numbers], boxes, masks)}


@pytest.fixture
def config(pixels, tmp_path) -> str:
    custom = {"city": {"CITYSCAPES": str(tmp_path / "cityscapes"), "SPLIT": "val"}}
    return semantic_config(tmp_path, pixels, {"DATASETS": {"CUSTOM": custom}})


def inputs(root: Path) -> dict[str, dict]:
    folder = root / "cityscapes" / "leftImg8bit" / "val"
    return {city: {"file_name": str(folder / city / f"{stem(city)}_leftImg8bit.png")} for city in PAINTED}


def test_perfect_pixels_score_100_by_detectron2s_name(config, tmp_path):
    write_cityscapes(tmp_path)
    with built_in(tmp_path):
        assert len(DatasetCatalog.get("cityscapes_fine_sem_seg_val")) == 2
        pairs = [(given, segmented(city)) for city, given in inputs(tmp_path).items()]
        results = scores(config, "cityscapes_fine_sem_seg_val", pairs)["sem_seg"]
    assert results == pytest.approx({"IoU": 100, "iIoU": 100, "IoU_sup": 100, "iIoU_sup": 100}, abs=1e-6)


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_perfect_pixels_score_100_by_an_entry_of_the_config(config, tmp_path, kind):
    write_cityscapes(tmp_path, (kind,))
    register(load_config(config), ["city"])
    pairs = [(given, segmented(city)) for city, given in inputs(tmp_path).items()]
    results = scores(config, "city", pairs)["sem_seg"]
    assert results["mIoU"] == results["pACC"] == results["IoU-car"] == pytest.approx(100, abs=1e-6)
    assert math.isnan(results["IoU-train"])


@pytest.mark.parametrize("name", ["cityscapes_fine_sem_seg_val", "city"])
def test_what_is_found_of_a_class_that_never_occurs_costs_the_true_class_alone_and_is_told(
    config, tmp_path, caplog, name
):
    write_cityscapes(tmp_path)
    register(load_config(config), ["city"])
    outputs = {city: segmented(city) for city in PAINTED}
    sky = drawn("aachen")[0] == name2label["sky"].id
    sky[24:] = False
    outputs["aachen"]["sem_seg"][:, sky] = 0
    outputs["aachen"]["sem_seg"][16, sky] = 1  # the upper half is a train
    with built_in(tmp_path) if name != "city" else contextlib.nullcontext():
        results = scores(config, name, [(given, outputs[city]) for city, given in inputs(tmp_path).items()])
    left = 1 - sky.sum() / (drawn("aachen")[0] == name2label["sky"].id).sum()
    scored = results["sem_seg"].get("mIoU", results["sem_seg"].get("IoU"))
    assert scored == pytest.approx(100 * (5 + left) / 6)  # of six classes that occur
    (told,) = [record.message for record in caplog.records if "never occur" in record.message]
    assert "without 13 classes" in told and "train" in told and "sky" not in told


def test_train_ids_that_are_missing_are_named_before_training(config, tmp_path):
    write_cityscapes(tmp_path, ("labelIds",))
    with built_in(tmp_path), pytest.raises(DataError, match="cityscapes_fine_sem_seg_val.*labelTrainIds"):
        check_readable(["cityscapes_fine_sem_seg_val"])


def test_raw_ids_in_the_place_of_train_ids_are_refused(config, tmp_path):
    write_cityscapes(tmp_path, ("labelTrainIds",))
    for city in PAINTED:
        file = tmp_path / "cityscapes" / "gtFine" / "val" / city / f"{stem(city)}_gtFine_labelTrainIds.png"
        Image.fromarray(drawn(city)[0]).save(file)
    with pytest.raises(DataError, match="labelTrainIds.png: .* pixels hold 23, 26"):
        register(load_config(config), ["city"])


def test_files_that_only_the_evaluation_reads_are_missed_before_training(config, tmp_path):
    write_cityscapes(tmp_path)
    for file in tmp_path.rglob("*_instanceIds.png"):
        file.unlink()
    with built_in(tmp_path), pytest.raises(DataError, match="needs .*_gtFine_instanceIds.png, which does not exist"):
        check_evaluators(["cityscapes_fine_sem_seg_val"])


def test_several_machines_are_refused_before_training(config, tmp_path, monkeypatch):
    write_cityscapes(tmp_path)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with built_in(tmp_path), pytest.raises(ConfigError, match="Cityscapes work on one machine alone"):
        check_evaluators(["cityscapes_fine_sem_seg_val"])


def test_an_image_without_prediction_is_one_line(config, tmp_path):
    """The scripts would end the process."""
    write_cityscapes(tmp_path)
    city, given = next(iter(inputs(tmp_path).items()))
    with built_in(tmp_path), pytest.raises(DataError, match="the scripts of Cityscapes: Found no prediction"):
        scores(config, "cityscapes_fine_sem_seg_val", [(given, segmented(city))])


def test_perfect_instances_score_100(config, tmp_path):
    write_cityscapes(tmp_path)
    with built_in(tmp_path):
        names = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
        pairs = [(given, instances(city, names)) for city, given in inputs(tmp_path).items()]
        results = scores(config, "cityscapes_fine_instance_seg_val", pairs)["segm"]
    assert results == pytest.approx({"AP": 100, "AP50": 100}, abs=1e-6)


def test_no_instance_found_scores_0(config, tmp_path):
    write_cityscapes(tmp_path)
    nothing = {"instances": found((HEIGHT, WIDTH), [], [], np.zeros((0, HEIGHT, WIDTH)))}
    with built_in(tmp_path):
        pairs = [(given, nothing) for given in inputs(tmp_path).values()]
        results = scores(config, "cityscapes_fine_instance_seg_val", pairs)["segm"]
    assert results == {"AP": 0, "AP50": 0}


@pytest.mark.skipif(importlib.util.find_spec("shapely") is None, reason="Detectron2's reader needs shapely")
def test_detectron2_reads_the_instances_that_are_drawn(config, tmp_path):
    write_cityscapes(tmp_path)
    with built_in(tmp_path):
        register(load_config(config), ["cityscapes_fine_instance_seg_val"])
        records = DatasetCatalog.get("cityscapes_fine_instance_seg_val")
    assert sorted(len(record["annotations"]) for record in records) == [2, 2]


def test_the_package_of_detectron2s_reader_is_named(config, tmp_path, monkeypatch):
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "shapely" else present(name))
    with built_in(tmp_path), pytest.raises(ConfigError, match="'cityscapes_fine_instance_seg_val': .* package shapely"):
        register(load_config(config), ["cityscapes_fine_instance_seg_val"])


def test_perfect_panoptic_segments_score_100(config, tmp_path):
    """With pixels and instances of the same images, as Panoptic-DeepLab gives them."""
    write_cityscapes(tmp_path)
    folder, file = (tmp_path / "cityscapes" / "gtFine" / f"cityscapes_panoptic_val{end}" for end in ("", ".json"))
    folder.mkdir()
    annotations, outputs = [], []
    for city, given in inputs(tmp_path).items():
        _, ids = drawn(city)
        infos, panoptic = [], np.full((HEIGHT, WIDTH), -1, np.int64)
        for number in np.unique(ids[ids > 0]).tolist():
            label = next(c for c in CLASSES if c.id == (number // 1000 or number))
            infos.append({
                "id": number, "category_id": label.id, "iscrowd": 0, "area": int((ids == number).sum()), "bbox": [],
            })  # fmt: skip
            panoptic[ids == number] = label.trainId * 1000 + number % 1000
        pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], 2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem(city)}_gtFine_panoptic.png")
        name = f"{stem(city)}_gtFine_panoptic.png"
        annotations.append({"image_id": stem(city), "file_name": name, "segments_info": infos})
        outputs.append((given | {"image_id": stem(city)}, {"panoptic_seg": (torch.from_numpy(panoptic), None)}))
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.hasInstances)} for c in CLASSES if c.trainId in range(19)
    ]
    file.write_text(json.dumps({"images": [], "annotations": annotations, "categories": categories}))
    with built_in(tmp_path):
        check_evaluators(["cityscapes_fine_panoptic_val"])
        names = MetadataCatalog.get("cityscapes_fine_panoptic_val").thing_classes
        assert len(DatasetCatalog.get("cityscapes_fine_panoptic_val")) == 2
        for city, (_, output) in zip(PAINTED, outputs):
            output |= segmented(city) | instances(city, names)
        results = scores(config, "cityscapes_fine_panoptic_val", outputs)
    for task in ("panoptic_seg", "segm", "sem_seg"):
        assert results[task] == pytest.approx(dict.fromkeys(results[task], 100), abs=1e-6)
