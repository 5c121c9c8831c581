import json
import os

import numpy as np
import pytest
from PIL import Image

import kd2
from kd2 import cli_deploy
from kd2.deploy.formats import ExportedFile
from kd2.deploy.predict import drawn
from kd2.deploy.predictor import Facts
from kd2.distill import ConfigError


def predicted(run, folder, *images, score="0.2"):
    """The exit code of the command, and the JSON that it wrote."""
    words = ["--run", run, "--output", str(folder), "--min-score", score, *map(str, images)]
    code = cli_deploy.run_predict(cli_deploy.predict_parser().parse_args(words))
    return code, json.loads((folder / "predictions.json").read_text())


@pytest.fixture
def pictures(tmp_path):
    """A folder with two pictures, 64 x 48."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_objects_are_written_as_coco_annotates_them(detector, pictures, tmp_path):
    code, content = predicted(detector, tmp_path / "out", pictures / "a.png")
    (found,) = kd2.load(detector).predict(pictures / "a.png")
    x1, y1, x2, y2 = found["boxes"][0].tolist()
    first = content["annotations"][0]
    assert code == 0 and first["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
    assert first["category_id"] == found["labels"][0] + 1 and first["score"] == pytest.approx(float(found["scores"][0]))
    assert first["segmentation"]["size"] == [48, 64] and first["area"] == (found["masks"][0] >= 0.5).sum()
    assert content["categories"] == [{"id": 1, "name": "box"}, {"id": 2, "name": "bar"}]


def test_every_picture_is_drawn_in_its_size(run, pictures, tmp_path):
    code, content = predicted(run, tmp_path / "out", pictures)
    assert code == 0 and [Image.open(tmp_path / "out" / name).size for name in ("a.png", "b.png")] == [(64, 48)] * 2
    assert [entry["file_name"] for entry in content["images"]] == [str(pictures / "a.png"), str(pictures / "b.jpg")]
    assert {entry["image_id"] for entry in content["annotations"]} == {1, 2}


def test_a_score_above_all_draws_nothing_and_the_json_has_all(detector, pictures, tmp_path):
    _, content = predicted(detector, tmp_path / "out", pictures / "a.png", score="1")
    same = np.array(Image.open(tmp_path / "out" / "a.png")) == np.array(Image.open(pictures / "a.png"))
    assert same.all() and len(content["annotations"]) == 4


def test_classes_of_pixels_cover_the_picture(segmenter, pictures, tmp_path):
    _, content = predicted(segmenter, tmp_path / "out", pictures / "a.png")
    assert sum(entry["area"] for entry in content["annotations"]) == 48 * 64


def test_a_broken_picture_among_others_is_told_and_left_out(classifier, pictures, tmp_path, capsys):
    (pictures / "aa.png").write_text("no picture")
    code, content = predicted(classifier, tmp_path / "out", pictures)
    assert code == 1 and len(content["images"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {pictures / 'aa.png'}: not a readable image")


def test_a_picture_that_the_model_cannot_take_is_told_and_left_out(detector, pictures, tmp_path, capsys):
    Image.new("RGB", (3000, 2)).save(pictures / "aa.png")
    code, content = predicted(detector, tmp_path / "out", pictures)
    assert code == 1 and len(content["images"]) == 2
    assert "aa.png: the model cannot take a picture of 3000 x 2 pixels: RuntimeError" in capsys.readouterr().err


def test_a_picture_that_is_named_twice_is_predicted_once(classifier, pictures, tmp_path):
    _, content = predicted(classifier, tmp_path / "out", pictures / "b.jpg", pictures)
    assert [entry["file_name"] for entry in content["images"]] == [str(pictures / "b.jpg"), str(pictures / "a.png")]


@pytest.mark.parametrize("score", ["-0.1", "1.1", "nan", "half"])
def test_a_score_that_is_none_is_refused(score):
    with pytest.raises(ConfigError, match="--min-score"):
        cli_deploy.predict_parser().parse_args(["--run", "r", "--min-score", score, "a.jpg"])


def test_the_pictures_themselves_are_never_written_over(classifier, pictures):
    before = (pictures / "a.png").read_bytes()
    with pytest.raises(ConfigError, match="has a.png already, which is kept"):
        predicted(classifier, pictures, pictures)
    assert (pictures / "a.png").read_bytes() == before and not (pictures / "predictions.json").exists()


def test_two_pictures_of_one_name_are_both_drawn(classifier, pictures, tmp_path):
    (tmp_path / "more").mkdir()
    Image.open(pictures / "a.png").save(tmp_path / "more" / "a.png")
    predicted(classifier, tmp_path / "out", pictures / "a.png", tmp_path / "more")
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "a_2.png", "predictions.json"]


def test_results_that_are_there_are_kept(classifier, pictures, tmp_path):
    (tmp_path / "predictions.json").write_text("{}")
    with pytest.raises(ConfigError, match="has predictions.json already"):
        predicted(classifier, tmp_path, pictures)


def test_a_picture_that_does_not_exist_is_refused_first(classifier, tmp_path):
    with pytest.raises(ConfigError, match=r"none.png does not exist"):
        predicted(classifier, tmp_path / "out", tmp_path / "none.png")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_picture_is_refused(classifier, tmp_path):
    with pytest.raises(ConfigError, match="has no picture; known by .jpg"):
        predicted(classifier, tmp_path / "out", tmp_path)


def test_a_name_as_long_as_a_name_can_be_is_cut(classifier, pictures, tmp_path):
    (tmp_path / "more").mkdir()
    for folder in (pictures, tmp_path / "more"):
        Image.open(pictures / "a.png").save(folder / f"{'x' * 251}.png")
    code, content = predicted(classifier, tmp_path / "out", pictures, tmp_path / "more")
    assert code == 0 and len(content["images"]) == 4 == len(list((tmp_path / "out").glob("*.png")))


def test_words_leave_a_small_picture_to_be_seen():
    facts = Facts("detection", "RetinaNet", ["rectangle"], [])
    model, pixels = ExportedFile(facts, list), np.zeros((48, 64, 3), np.uint8)
    found = {"boxes": np.array([[20.0, 20, 30, 30]]), "scores": np.array([0.75]), "labels": np.array([0])}
    painted = drawn(model, pixels, found, 0.5).any(2)
    assert painted[20, 20:30].all() and painted.any(0).sum() <= 32  # less than half of its width
