"""A name of a network is timm's own: no folder, no file and no address of a hub."""

import os

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2.config import defaults_of
from kd2.distill import ConfigError
from kd2.engine.lightning.classification.models import build_model
from kd2.engine.timm_backbone import TimmNetwork


class Harm:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def from_backbone(name: str) -> None:
    TimmNetwork(name).build()


def from_classifier(name: str) -> None:
    cfg = defaults_of("timm")
    cfg.MODEL.NAME = name
    build_model(cfg)


@pytest.mark.parametrize("build", [from_backbone, from_classifier])
@pytest.mark.parametrize(
    "name",
    [
        "local-dir:{}",
        "hf-hub:{}",
        "hf_hub:a/b",
        "resnet18.local-dir:{}",
        "resnet18.a1:{}",
        "timm/resnet18",
        "{}/resnet18",
    ],
)
def test_other_sources_are_refused(tmp_path, monkeypatch, build, name):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {}}')
    for file in ("pytorch_model.bin", "model.pth"):
        torch.save({"x": Harm(tmp_path / "marker")}, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="NAME.*resnet|NAME.*local-dir|NAME.*h[fu]"):
        build(name.format(tmp_path))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("build", [from_backbone, from_classifier])
def test_a_name_with_a_tag_is_timms(build):
    build("resnet18.a1_in1k")
