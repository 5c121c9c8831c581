"""Detectron2's evaluator of Cityscapes and that of our own layout say the same."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")
pytest.importorskip("cityscapesscripts", reason="Detectron2's evaluator of Cityscapes needs cityscapesscripts")

import contextlib
import io

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from kd2.engine.detectron2 import cityscapes
from kd2.engine.detectron2.data import eval_loader
from kd2.engine.detectron2.evaluators import build_evaluator, check_evaluators
from kd2.distill import ConfigError

from ...helpers.d2_semantic import semantic_config
from ...helpers.d2_tiny import load_config

IDS = [7, 8, 11, 0]  # road, sidewalk, building, nothing


def write_layout(folder) -> None:
    """Two images; their label ids are stripes, and nothing is an instance."""
    picture, stripes = np.zeros((16, 24, 3), np.uint8), np.tile(np.repeat(IDS, 6), (16, 1))
    files = {
        "leftImg8bit/val/city": {"leftImg8bit": picture},
        "gtFine/val/city": {
            "gtFine_labelIds": stripes.astype(np.uint8), "gtFine_instanceIds": stripes.astype(np.uint16),
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
    gt_dir = str(tmp_path / "cityscapes" / "gtFine" / "val")
    MetadataCatalog.get("their_city").set(evaluator_type="cityscapes_sem_seg", gt_dir=gt_dir)
    theirs = scored(cfg, "their_city", predicted, "")
    MetadataCatalog.remove("their_city")
    assert ours["mIoU"] == pytest.approx(theirs["IoU"]) == pytest.approx((0.8 + 0.75 + 1) / 3 * 100)


@pytest.fixture
def instances():
    """The name of a data set for Cityscapes' evaluation of instances."""
    MetadataCatalog.get("city_objects").set(evaluator_type="cityscapes_instance", gt_dir="")
    yield "city_objects"
    MetadataCatalog.remove("city_objects")


def test_a_missing_package_is_named(instances, monkeypatch):
    monkeypatch.setattr(cityscapes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="DATASETS.TEST: 'city_objects': .* needs the package cityscapesscripts"):
        check_evaluators([instances])


def test_a_numpy_that_the_evaluation_of_instances_cannot_use_is_named(instances, monkeypatch):
    monkeypatch.setattr(np, "count_nonzero", lambda values: np.intp(1))
    with pytest.raises(ConfigError, match="DATASETS.TEST: 'city_objects': .* fails with NumPy"):
        check_evaluators([instances])
