"""Pictures of a distillation, on drawn images with an untrained pair."""

import logging
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("pycocotools", reason="needs pycocotools")

import torch

from kd2.cli_report import pictures_and_pairs
from kd2.distill import ConfigError, DataError
from kd2.report.compare import compare
from kd2.report.look import look

from ..helpers import tiny_detection
from ..helpers.lightning_runs import experiment, merged

ROOT = Path(__file__).parents[2]
LOSSES = {
    "imitation": {"WEIGHT": 1.0},
    "mgd": {"WEIGHT": 1.0},
    "fgd": {"WEIGHT": 1.0},
    "tat": {"WEIGHT": 1.0, "TAP": "fine"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    """A config with four losses on a teacher and a student as they were drawn."""
    folder = tmp_path_factory.mktemp("look")
    tiny_detection.write_data(folder)
    teacher = tiny_detection.write_config(folder, folder, name="teacher")
    (folder / "out").mkdir()
    model = experiment(teacher).build_student().module
    torch.save({"model": model.state_dict()}, folder / "out" / "teacher.pth")
    changes = {
        "OUTPUT_DIR": str(folder / "student"),
        "DATASETS": {"TEST": ["tiny"]},
        "KD": {
            "TAPS": ["fpn=backbone", "fine=backbone:0,1"],
            "TEACHER": {"CONFIG_FILE": teacher, "WEIGHTS": str(folder / "out" / "teacher.pth")},
            "LOSSES": LOSSES,
        },
    }
    return tiny_detection.write_config(folder, folder, merged({}, changes))


def test_every_loss_shows_what_it_sees(config, tmp_path, monkeypatch, capsys):
    alone = str(Path(config).parent / "out" / "teacher.pth")
    words = ["look.py", "--config-file", config, "--alone", alone, "--count", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / "look.py"), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().err
    names = {path.stem for path in (tmp_path / "pictures").glob("*.png")}
    assert names == {
        "found", "errors", "attention_fpn_1", "attention_fine_1", "imitation_mask", "mgd_holes", "fgd_foreground",
        "fgd_background", "fgd_attention", "fgd_foreground_x_attention", "tat_attention",
    }  # fmt: skip
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert not (Path(config).parent / "student" / "config.yaml").exists()  # the run's folder stays as it is


def test_a_picture_that_cannot_be_read_is_left_out_and_named(config, caplog):
    folder = Path(config).parent / "images"
    path = folder / "0.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with caplog.at_level(logging.WARNING, "kd2"):
            name, _, figure = next(look(config, count=2))
        assert name == "found" and len(figure.axes) == 3  # one image: annotated, teacher, student
        assert any("left out" in x.getMessage() and "0.png" in x.getMessage() for x in caplog.records)
        with pytest.raises(DataError, match="no image could be read"):
            look(config, images=[str(path)])
    finally:
        path.write_bytes(content)


def test_an_image_of_no_data_set_is_named(config):
    with pytest.raises(DataError, match="--images: 9.png is no picture of DATASETS.TEST or DATASETS.TRAIN"):
        look(config, images=["9.png"])


def test_without_a_loss_there_is_nothing_to_show(config):
    options = [word for name in LOSSES for word in (f"KD.LOSSES.{name}.WEIGHT", "0")]
    with pytest.raises(ConfigError, match="there is no distillation to show"):
        look(config, options)


def test_pairs_behind_the_pictures_override_the_config(config, tmp_path, monkeypatch, capsys):
    words = ["look.py", "--config-file", config, "--output", str(tmp_path), "--images", "0.png", "MODEL.SIZE", "3"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / "look.py"), run_name="__main__")
    assert end.value.code == 1 and "MODEL.SIZE: no such key" in capsys.readouterr().err


def test_names_behind_images_are_pictures_up_to_the_first_key(tmp_path):
    (tmp_path / "odd").touch()
    words = ["A.JPG", str(tmp_path / "odd"), "SEED", "3", "MODEL.WEIGHTS", "b.png"]
    assert pictures_and_pairs(words) == (words[:2], words[2:])


def test_a_run_of_a_machine_with_a_gpu_is_drawn_on_one_without(config, tmp_path):
    made = experiment(config)
    (tmp_path / "run").mkdir()
    text = made.config_text().replace("DEVICE: cpu", "DEVICE: cuda")
    (tmp_path / "run" / "config.yaml").write_text(text)
    (tmp_path / "run" / "results.json").write_text('{"bbox/AP": 1.0}')
    torch.save({"model": made.build_student().module.state_dict()}, tmp_path / "run" / "model_final.pth")
    content = compare([str(tmp_path / "run")], str(tmp_path / "page"), images=1)
    assert "DEVICE: cuda" in text and content["notes"] == []
    assert (tmp_path / "page" / "pictures" / "found.png").exists()
