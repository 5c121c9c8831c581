"""A student of torchvision that starts from a detector of Detectron2's zoo."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import logging
from pathlib import Path

import torch
import yaml

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers import zoo_files

ZOO = "COCO-Detection/retinanet_R_50_FPN_3x.yaml"
FILE = "190397829/model_final_5bd44e.pkl"
PAGE = Path(__file__).resolve().parents[4] / "docs" / "teachers.md"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    state = zoo_files.detector("retinanet", "R_50")
    zoo_files.write(state, folder / zoo_files.ADDRESS / ZOO.removesuffix(".yaml") / FILE)
    return folder, state


@pytest.fixture
def start(published, tmp_path, data, monkeypatch, caplog):
    """Builds the student of docs/teachers.md with changes; returns its model and the warnings of MODEL.WEIGHTS."""

    def built(changes: dict):
        monkeypatch.setenv("KD2_WEIGHTS", str(published[0]))
        shown = next(x for x in PAGE.read_text().split("```yaml\n") if x.startswith("FRAMEWORK: torchvision"))
        own = runs.merged(yaml.safe_load(shown.partition("```")[0]), changes)
        defaults = {"FPN": {"OUT_CHANNELS": 256}, "RETINANET": {"NUM_CONVS": 4}, "ANCHOR_GENERATOR": {"SIZES": SIZES}}
        config = tiny.write_config(tmp_path, data, runs.merged({"MODEL": defaults, "KD": {"LOSSES": {}}}, own))
        with caplog.at_level(logging.WARNING):
            student = runs.distiller(config).student
        told = [x.getMessage() for x in caplog.records if x.getMessage().startswith("MODEL.WEIGHTS: COCO-Detection")]
        return student, told

    return built


SIZES = [[side * 2 ** (i / 3) for i in range(3)] for side in (32, 64, 128, 256, 512)]


def test_the_student_of_the_page_has_the_weights_of_the_zoo(start, published):
    student, told = start({})
    assert told == []
    body, tower = student.backbone.body.conv1.weight, student.head.classification_head.conv[2][0].weight
    assert torch.equal(body, published[1]["backbone.bottom_up.stem.conv1.weight"])
    assert torch.equal(tower, published[1]["head.cls_subnet.4.weight"])


ADDRESS = f"{zoo_files.ADDRESS}/{ZOO.removesuffix('.yaml')}/{FILE}"


@pytest.mark.parametrize("weights", [ZOO, f"https://{ADDRESS}", "a path"])
def test_other_images_than_its_weights_were_trained_with_are_told(start, published, weights):
    weights = str(published[0] / ADDRESS) if weights == "a path" else weights
    changes = {"WEIGHTS": weights, "PIXEL_STD": [57.375, 57.12, 58.395], "BACKBONE": {"STRIDE_IN_1X1": False}}
    _, told = start({"MODEL": changes, "INPUT": {"FORMAT": "RGB"}})
    begin = f"MODEL.WEIGHTS: {ZOO} was trained with"
    assert told == [
        f"{begin} INPUT.FORMAT BGR, the config has RGB",
        f"{begin} MODEL.PIXEL_STD [1.0, 1.0, 1.0], the config has [57.375, 57.12, 58.395]",
        f"{begin} MODEL.BACKBONE.STRIDE_IN_1X1 True, the config has False",
    ]


def test_a_backbone_of_the_zoo_has_an_input_of_its_own_too(published, tmp_path, data, caplog):
    state = dict(zoo_files.resnet("R_50", torch.Generator().manual_seed(0)))
    file = tmp_path / "MSRA" / "R-50.pkl"
    zoo_files.write(state, file)
    changes = {"BACKBONE": {"NAME": "resnet50", "NORM": "FrozenBN", "WEIGHTS": str(file)}, "PIXEL_STD": [1.0, 1.0, 1.0]}
    config = tiny.write_config(tmp_path, data, {"MODEL": changes, "INPUT": {"FORMAT": "BGR"}, "KD": {"LOSSES": {}}})
    with caplog.at_level(logging.WARNING):
        runs.distiller(config)
    told = [x.getMessage() for x in caplog.records if "was trained with" in x.getMessage()]
    begin = "MODEL.BACKBONE.WEIGHTS: R-50.pkl was trained with MODEL."
    assert told == [
        f"{begin}PIXEL_MEAN [103.53, 116.28, 123.675], the config has [123.675, 116.28, 103.53]",
        f"{begin}BACKBONE.STRIDE_IN_1X1 True, the config has False",
    ]
