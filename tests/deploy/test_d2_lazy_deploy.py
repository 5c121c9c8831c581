"""Prediction and export of a run by a LazyConfig file of Detectron2."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

import kd2
from kd2 import cli, cli_deploy, engine
from kd2.distill import ConfigError
from kd2.engine.detectron2.data import eval_loader
from kd2.engine.flow import trained_student
from kd2.engine.permission import permitted

from ..helpers.d2_families import LAZY, OBJECTS, drawn_families
from ..helpers.untrained_runs import write_run

# The model of fcos.py with a test set and pictures of a size that no key says.
TESTED = """
from detectron2 import model_zoo
from .fcos import model

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = dataloader.test.dataset.names = "{name}"
dataloader.test.mapper.augmentations[0].update(short_edge_length=56, max_size=80)
model.test_score_thresh = 0.0
model.max_detections_per_image = 3
train = dict(output_dir="{output}")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of an FCOS's run."""
    folder = tmp_path_factory.mktemp("lazy")
    for name in ("fcos.py", "tiny_rcnn.py"):
        shutil.copy(LAZY / name, folder)
    path = folder / "tested.py"
    path.write_text(TESTED.format(name=OBJECTS, output=folder / "out"))
    with drawn_families(folder), permitted(code=True):
        written = write_run(str(path), "MODEL.DEVICE", "cpu")
        weights = os.path.join(written, "model_final.pth")
        content = torch.load(weights, weights_only=True)
        content["model"]["head.bbox_pred.bias"].fill_(2)  # boxes with an area
        torch.save(content, weights)
        yield written


@pytest.fixture
def forbidden():
    """Code is not allowed, as in a process of its own."""
    with permitted(code=False):
        yield


def predicting(run: str, folder: Path, *more: str) -> list[str]:
    return ["--run", run, "--output", str(folder / "found"), *more, str(folder / "photo.png")]


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


def test_without_the_option_no_code_runs(run, photo, forbidden, capsys):
    exporting = ["--run", run, "--format", "torchscript"]
    for command, words in (
        (lambda w: cli_deploy.run_predict(cli_deploy.predict_parser().parse_args(w)), predicting(run, photo)),
        (lambda w: cli_deploy.run_export(cli_deploy.export_parser().parse_args(w)), exporting),
        (kd2.load, run),
    ):
        assert cli.guarded(lambda command=command, words=words: command(words)) == 1
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and line.endswith(
            "tested.py is Python, which runs when it is read; --allow-code reads it, for a file you trust"
        )


def test_a_loaded_run_finds_what_detectron2_finds(run, forbidden):
    with permitted(code=True):
        experiment = engine.for_evaluation(os.path.join(run, "config.yaml"), [])
        (name,) = experiment.load_data("TEST")
        student = trained_student(experiment, os.path.join(run, "model_final.pth"), "").eval()
        sample = next(iter(eval_loader(experiment.cfg, name)))[0]
    with torch.no_grad():
        instances = student([sample])[0]["instances"]
    model = kd2.load(run, allow_code=True)
    (found,) = model.predict(sample["file_name"])
    assert min(sample["image"].shape[1:]) == 56 and model.facts.architecture == "FCOS"
    assert len(found["boxes"]) == len(instances) == 3
    np.testing.assert_allclose(found["boxes"], instances.pred_boxes.tensor, atol=0.01)
    np.testing.assert_allclose(found["scores"], instances.scores, atol=1e-3)


def test_with_the_option_its_file_finds_what_pytorch_finds(run, photo, forbidden):
    path = str(photo / "student.pt")
    words = ["--run", run, "--format", "torchscript", "--output", path, "--evaluate", "--allow-code"]
    assert cli_deploy.run_export(cli_deploy.export_parser().parse_args(words)) == 0
    assert cli_deploy.run_predict(cli_deploy.predict_parser().parse_args(predicting(run, photo, "--allow-code"))) == 0


def test_a_mapper_that_does_more_than_resizing_is_refused(run, forbidden):
    config = Path(run, "config.yaml")
    text = config.read_text()
    assert "LAZY_OVERRIDES: []" in text
    config.write_text(text.replace("LAZY_OVERRIDES: []", "LAZY_OVERRIDES: ['dataloader.test.mapper.augmentations=[]']"))
    try:
        with pytest.raises(ConfigError, match=r"tested.py: dataloader.test.mapper.augmentations is \[\], prediction"):
            kd2.load(run, allow_code=True)
    finally:
        config.write_text(text)
