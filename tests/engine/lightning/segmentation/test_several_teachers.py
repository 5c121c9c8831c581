"""Two teachers of a segmentation network; one of them knows other classes."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from ....helpers import lightning_runs as runs
from ....helpers import tiny_segmentation as tiny


def test_pixels_are_compared_for_the_classes_that_both_know(tmp_path, semantic_data, psp_teacher):
    second = {
        "CONFIG_FILE": str(psp_teacher / "teacher.yaml"),
        "WEIGHTS": str(psp_teacher / "out" / "model_final.pth"),
        "CLASSES": ["tree", "bar", "dog", "ground", "sky"],
        "TAPS": ["score=classifier"],
    }
    config = tiny.write_config(tmp_path, semantic_data, tiny.distilled(psp_teacher, {"KD": {"TEACHERS": [second]}}))
    distiller = runs.distiller(config)
    shared = distiller.configs["pixelwise_teacher2"].shared
    assert (shared.student.tolist(), shared.teacher.tolist()) == ([0, 2], [3, 1])
    losses = distiller(runs.first_batch(config))
    assert losses["loss_pixelwise_teacher2"].isfinite() and losses["loss_pixelwise_teacher2"] > 0
    assert "loss_pairwise_teacher2" not in losses
