"""A teacher whose weights come from a file fetches nothing that its own config names for the start of its training."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

from ...helpers import lightning_runs as runs
from ...helpers import tiny_classification, tiny_detection


def test_a_detectors_backbone_is_not_fetched(tmp_path, data, teacher):
    config = tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))
    experiment = runs.experiment(config, "KD.TEACHER.OPTS", "['MODEL.BACKBONE.WEIGHTS', 'IMAGENET']")
    assert experiment.teachers[0].cfg.MODEL.BACKBONE.WEIGHTS == ""


def test_a_classifier_is_not_fetched(tmp_path, pictures, class_teacher):
    config = tiny_classification.write_config(tmp_path, pictures, tiny_classification.distilled(class_teacher))
    experiment = runs.experiment(config, "KD.TEACHER.OPTS", "['MODEL.PRETRAINED', 'True']")
    assert not experiment.teachers[0].cfg.MODEL.PRETRAINED
