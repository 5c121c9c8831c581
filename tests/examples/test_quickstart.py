"""The quick start: its data, its whole way on a few images, and what a user's own data meets."""

import hashlib
import itertools
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.quickstart import own_data, report, shapes
from examples.quickstart.measure import Cost
from examples.quickstart.run import quickstart
from kd2.cli import guarded
from kd2.data.detection.records import read_coco
from kd2.distill import DataError

ROOT = Path(__file__).parents[2]
PICTURES = ("curves.png", "predictions.png")


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def written(folder: Path, seed: int) -> dict[str, str]:
    shapes.write(str(folder), {"train": 3, "val": 2}, seed)
    return digest(folder)


def coco_file(folder: Path, count: int = 6, category: int = 7) -> tuple[str, str]:
    """A small data set as a user has it: 400 x 300 photographs, two classes with ids of their own."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]}
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.jpg")
        content["images"].append({"id": 10 + i, "file_name": f"{i}.jpg", "width": 400, "height": 300})
        content["annotations"].append(
            {"id": i, "image_id": 10 + i, "category_id": category, "bbox": [40, 30, 200, 150], "iscrowd": 0}
        )
    (folder / "own.json").write_text(json.dumps(content))
    return str(folder / "own.json"), str(folder / "images")


def entry(name: str, ap: float) -> report.Entry:
    return report.Entry(name, ap, ap, Cost(1, 1.0, 1.0), 1.0, [1.0], {1: ap})


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    assert written(tmp_path / "a", seed=3) == written(tmp_path / "b", seed=3)


def test_another_seed_gives_other_images_and_labels(tmp_path):
    first, second = written(tmp_path / "a", seed=3), written(tmp_path / "b", seed=4)
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_train_and_val_share_no_image(tmp_path):
    assert len(set(written(tmp_path, seed=3).values())) == 7  # five images, two JSON files


def test_shapes_are_a_valid_coco_data_set(tmp_path):
    files = shapes.write(str(tmp_path), {"train": 4, "val": 2}, seed=1)
    data = read_coco("shapes", files["train"], str(tmp_path / "train"))
    assert data.classes == ("circle", "ring", "triangle", "square", "star", "cross")
    assert [(r["width"], r["height"]) for r in data.records] == [(128, 128)] * 4
    assert all(r["annotations"] for r in data.records)


def test_boxes_are_tight_around_what_shows_of_a_shape():
    pictures = [shapes.draw(1, 0, number) for number in range(10)]
    for picture in pictures:
        for number, (x, y, w, h) in enumerate(picture.boxes()):
            inside = picture.owner[y : y + h, x : x + w] == number
            assert inside.sum() == (picture.owner == number).sum()
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_some_shapes_are_partly_hidden():
    overlaps = 0
    for number in range(20):
        boxes = shapes.draw(1, 0, number).boxes()
        corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
        for a, b in itertools.combinations(corners, 2):
            overlaps += a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    assert overlaps > 5


def test_the_whole_way_writes_table_json_and_pictures(tmp_path):
    result = quickstart(str(tmp_path), iterations=3, images={"train": 12, "val": 4})
    text = (tmp_path / "report.md").read_text()
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["models"].keys() == {"teacher", "student", "distilled"}
    assert stored["verdict"] == result["verdict"] and stored["verdict"] in text
    for model in stored["models"].values():
        assert model["cost"]["parameters"] > 0 and model["cost"]["gflops"] > 0 and model["cost"]["latency_ms"] > 0
        assert model["seconds"] > 0 and len(model["losses"]) == 3 and list(model["ap_at"]) == ["3"]
    teacher, student, distilled = (stored["models"][n]["cost"] for n in ("teacher", "student", "distilled"))
    assert teacher["parameters"] > 10 * student["parameters"] == 10 * distilled["parameters"]
    for name in PICTURES:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 400
    # Equal seeds: before the first step only the distillation loss differs.
    assert stored["models"]["student"]["losses"][0] == stored["models"]["distilled"]["losses"][0]
    # After three iterations nothing is learned yet, and the report does not hide it.
    assert "The distilled student did not win" in text


def test_the_verdict_names_a_win_and_its_size():
    text = report.verdict(entry("teacher", 40.0), entry("student", 20.0), entry("distilled", 23.5))
    assert text == "The distilled student wins: AP 23.5 against 20.0 of the student alone (+3.5)."


def test_the_verdict_says_so_when_distillation_lost():
    text = report.verdict(entry("teacher", 40.0), entry("student", 20.0), entry("distilled", 19.0))
    assert text == "The distilled student did not win: AP 19.0 against 20.0 of the student alone (-1.0)."


def test_the_verdict_names_a_teacher_that_is_no_better():
    text = report.verdict(entry("teacher", 20.0), entry("student", 20.0), entry("distilled", 21.0))
    assert text.endswith("Mind that the teacher (AP 20.0) is no better than the student alone.")


def test_own_data_are_split_by_seed_and_reduced(tmp_path):
    json_file, images = coco_file(tmp_path)
    first = own_data.reduce(json_file, images, str(tmp_path / "a"), seed=1)
    train = read_coco("train", first["train"], str(tmp_path / "a" / "train"))
    assert train.classes == ("dog", "cat") and len(train.records) == 5
    record = train.records[0]
    assert (record["width"], record["height"]) == (224, 168)  # 0.56 of 400 x 300
    assert record["annotations"][0]["bbox"] == pytest.approx([22.4, 16.8, 112, 84])
    with Image.open(record["file_name"]) as picture:
        assert picture.size == (224, 168)
    own_data.reduce(json_file, images, str(tmp_path / "b"), seed=1)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_own_data_run_with_their_own_classes(tmp_path):
    result = quickstart(str(tmp_path / "out"), data=coco_file(tmp_path), iterations=2)
    assert result["setting"]["classes"] == ("dog", "cat")
    assert (result["setting"]["train_images"], result["setting"]["val_images"]) == (5, 1)


def test_a_single_labeled_image_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="1 images have boxes, expected at least 2 for training and validation"):
        own_data.reduce(*coco_file(tmp_path, count=1), str(tmp_path / "out"), seed=1)


def test_an_image_of_another_size_than_its_entry_is_named(tmp_path):
    json_file, images = coco_file(tmp_path)
    Image.new("RGB", (20, 30)).save(os.path.join(images, "3.jpg"))
    with pytest.raises(DataError, match=r"3.jpg says 400 x 300 pixels, the picture has 20 x 30"):
        own_data.reduce(json_file, images, str(tmp_path / "out"), seed=1)


def test_bad_data_give_the_error_text_and_exit_code_1(tmp_path, monkeypatch, capsys):
    json_file, images = coco_file(tmp_path, category=5)
    arguments = ["--data", json_file, images, "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *arguments])
    script = runpy.run_path(str(ROOT / "tools" / "quickstart.py"))
    assert guarded(script["main"]) == 1
    assert "error:" in (text := capsys.readouterr().err)
    assert "category_id 5 is not among the categories 3, 7" in text and "Traceback" not in text
