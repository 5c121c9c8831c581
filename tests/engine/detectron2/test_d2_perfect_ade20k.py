"""ADE20K by Detectron2's names: a perfect prediction scores 100, labels in the published form are refused."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import math
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from kd2.distill import DataError

from ...helpers.d2_builtin import built_in, scores
from ...helpers.d2_semantic import semantic_config

CLASSES, NAME = 150, "ade20k_sem_seg_val"
LABELS = np.repeat([[0, 12, 149, 255]], 16, 0).repeat(8, 1).astype(np.uint8)  # wall, person, flag, none


def write_ade20k(root: Path, labels: np.ndarray = LABELS) -> None:
    """The split validation with labels as Detectron2's script converts them: classes from 0, 255 for none."""
    for folder, ending, pixels in (("images", "jpg", np.zeros((*labels.shape, 3), np.uint8)), ("", "png", labels)):
        path = root / "ADEChallengeData2016" / (folder or "annotations_detectron2") / "validation"
        path.mkdir(parents=True)
        Image.fromarray(pixels).save(path / f"ADE_val_00000001.{ending}")


def scored(pixels: Path, root: Path, classes: np.ndarray) -> dict[str, float]:
    found = torch.nn.functional.one_hot(torch.from_numpy(classes.astype(np.int64)), CLASSES).permute(2, 0, 1)
    with built_in(root):
        (record,) = DatasetCatalog.get(NAME)
        return scores(semantic_config(root, pixels), NAME, [(record, {"sem_seg": found})])["sem_seg"]


def test_perfect_pixels_score_100_whatever_is_found_where_nothing_is_labeled(pixels, tmp_path):
    write_ade20k(tmp_path)
    results = scored(pixels, tmp_path, np.where(LABELS == 255, 3, LABELS))
    assert {results[name] for name in ("mIoU", "fwIoU", "mACC", "pACC", "IoU-wall", "IoU-flag")} == {100}
    assert math.isnan(results["IoU-floor"]) and math.isnan(results["BoundaryIoU-floor"])


def test_a_class_that_is_not_found_scores_0(pixels, tmp_path):
    write_ade20k(tmp_path)
    results = scored(pixels, tmp_path, np.zeros_like(LABELS))
    assert results["IoU-person"] == 0 and results["mIoU"] == pytest.approx(100 / 9)


def test_everything_is_nan_where_nothing_is_labeled(pixels, tmp_path):
    write_ade20k(tmp_path, np.full_like(LABELS, 255))
    results = scored(pixels, tmp_path, np.zeros_like(LABELS))
    assert all(math.isnan(x) for x in results.values())


def test_a_value_that_is_no_class_is_refused_by_name(pixels, tmp_path):
    """The published files count classes from 1."""
    write_ade20k(tmp_path, np.where(LABELS == 255, 0, LABELS + 1).astype(np.uint8))
    with pytest.raises(DataError, match="ADE_val_00000001.png: 128 pixels hold 150, allowed: 0-149, 255"):
        scored(pixels, tmp_path, np.zeros_like(LABELS))
