"""Detectron2's evaluator of Cityscapes and that of our own layout say the same."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")
pytest.importorskip("cityscapesscripts", reason="Detectron2's evaluator of Cityscapes needs cityscapesscripts")

import contextlib
import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from kd2.distill import ConfigError
from kd2.engine.detectron2.data import eval_loader
from kd2.engine.detectron2.evaluators import build_evaluator, check_evaluators

from ...helpers.d2_semantic import semantic_config
from ...helpers.d2_tiny import load_config

IDS = [7, 8, 11, 0]  # road, sidewalk, building, nothing
CAR, RIDER = 26, 25


def write_layout(folder: Path) -> None:
    """Two images; their label ids are stripes, and nothing is an instance."""
    stripes = np.tile(np.repeat(IDS, 6), (16, 1))
    write_images(folder, stripes, stripes)


def write_images(folder: Path, labels: np.ndarray, instances: np.ndarray) -> None:
    """Two black images of city with these ids."""
    picture = np.zeros((*labels.shape, 3), np.uint8)
    files = {
        "leftImg8bit/val/city": {"leftImg8bit": picture},
        "gtFine/val/city": {
            "gtFine_labelIds": labels.astype(np.uint8),
            "gtFine_instanceIds": instances.astype(np.uint16),
        },
    }
    for part, kinds in files.items():
        (folder / part).mkdir(parents=True)
        for number in range(2):
            for kind, pixels in kinds.items():
                Image.fromarray(pixels).save(folder / part / f"city_00000{number}_000019_{kind}.png")


def scored(cfg, name: str, predicted: torch.Tensor, folder: str) -> dict:
    loader = eval_loader(cfg, "city")  # registers it
    evaluator = build_evaluator(cfg, name, folder)
    evaluator.reset()
    for sample in loader:
        evaluator.process(sample, [{"sem_seg": predicted}])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()["sem_seg"]


def test_both_evaluators_agree(pixels, tmp_path):
    write_layout(tmp_path / "cityscapes")
    custom = {"city": {"CITYSCAPES": str(tmp_path / "cityscapes"), "SPLIT": "val"}}
    cfg = load_config(semantic_config(tmp_path, pixels, {"DATASETS": {"CUSTOM": custom}}))
    classes = torch.zeros(16, 24, dtype=torch.int64)
    classes[4:, 6:12], classes[:, 12:] = 1, 2
    predicted = torch.nn.functional.one_hot(classes, 19).permute(2, 0, 1)
    ours = scored(cfg, "city", predicted, str(tmp_path / "ours"))
    with evaluated_as("cityscapes_sem_seg", tmp_path / "cityscapes") as name:
        theirs = scored(cfg, name, predicted, "")
    assert ours["mIoU"] == pytest.approx(theirs["IoU"]) == pytest.approx((0.8 + 0.75 + 1) / 3 * 100)


@contextlib.contextmanager
def evaluated_as(kind: str, folder: Path):
    """The name of a data set below ``folder`` for one of Detectron2's evaluators of Cityscapes."""
    gt_dir = str(folder / "gtFine" / "val")
    MetadataCatalog.get("their_city").set(evaluator_type=kind, gt_dir=gt_dir, thing_classes=["car", "rider"])
    yield "their_city"
    MetadataCatalog.remove("their_city")


def test_perfect_instances_score_100(pixels, tmp_path, monkeypatch):
    """Two cars and a rider in each image."""
    monkeypatch.chdir(tmp_path)
    labels, instances = np.zeros((96, 128), np.int32), np.zeros((96, 128), np.int32)
    for number, (x, kind) in enumerate([(4, CAR), (44, CAR), (84, RIDER)]):
        labels[20:60, x : x + 36], instances[20:60, x : x + 36] = kind, 1000 * kind + number
    write_images(tmp_path / "city", labels, instances)
    found = Instances((96, 128))
    found.pred_masks = torch.from_numpy(np.stack([instances == i for i in np.unique(instances) if i]))
    found.pred_classes, found.scores = torch.tensor([1, 0, 0]), torch.tensor([0.9, 0.8, 0.7])
    with evaluated_as("cityscapes_instance", tmp_path / "city") as name:
        evaluator = build_evaluator(load_config(semantic_config(tmp_path, pixels)), name)
        evaluator.reset()
        for number in range(2):
            sample = {"file_name": f"city_00000{number}_000019_leftImg8bit.png"}
            evaluator.process([sample], [{"instances": found}])
        with contextlib.redirect_stdout(io.StringIO()):
            scores = evaluator.evaluate()["segm"]
    assert scores == pytest.approx({"AP": 100, "AP50": 100})
    assert not os.path.exists("matches.json")


def test_numpy_stays_as_it_is(tmp_path):
    before = set(dir(np))
    write_layout(tmp_path)
    with evaluated_as("cityscapes_sem_seg", tmp_path) as name:
        check_evaluators([name])
    assert set(dir(np)) == before


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        evaluated_as("cityscapes_instance", tmp_path) as name,
        pytest.raises(ConfigError, match="DATASETS.TEST: 'their_city': .* needs the package cityscapesscripts"),
    ):
        check_evaluators([name])
