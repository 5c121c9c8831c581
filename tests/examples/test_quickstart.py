"""The quick start: its data, its whole way on a few images, and what a user's own data meets."""

import hashlib
import itertools
import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.quickstart import own_data, shapes, teacher
from examples.quickstart.folder import own_folder
from examples.quickstart.run import quickstart
from kd2.cli import guarded
from kd2.data.detection.records import read_coco
from kd2.distill import ConfigError, DataError
from kd2.engine.weights.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
needs_onnx = pytest.mark.skipif(not (find_spec("onnx") and find_spec("onnxruntime")), reason="needs the extra deploy")
PICTURES = ("found", "errors", "imitation_mask", "attention_fpn_1")


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


@needs_onnx
def test_the_whole_way_writes_the_page_with_its_pictures(tmp_path):
    result = quickstart(str(tmp_path), iterations=20, images={"train": 12, "val": 4})
    text, stored = (tmp_path / "report.md").read_text(), json.loads((tmp_path / "report.json").read_text())
    assert stored == result and stored["verdict"][0] in text
    groups = {group["label"]: group for group in stored["groups"]}
    assert list(groups) == ["teacher", "student alone", "imitation"]
    for group in groups.values():
        assert group["scores"]["bbox/AP"]["by_seed"].keys() == {"1"}
        assert group["cost"]["gflops"] > 0 and group["cost"]["cpu_ms"] > 0
    teacher, student, distilled = (group["cost"]["parameters"] for group in groups.values())
    assert teacher > 2 * student == 2 * distilled
    # The students train here, the teacher came trained.
    assert [group["seconds"] is None for group in groups.values()] == [True, False, False]
    for name in PICTURES:
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    with Image.open(next((tmp_path / "found").glob("*.png"))) as picture:
        assert picture.size == (128, 128)
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert (tmp_path / "student.onnx").stat().st_size > 1e6 and len(found["images"]) == 4
    # The teacher has learned these shapes, whatever the seed that drew them.
    assert groups["teacher"]["scores"]["bbox/AP50"]["by_seed"]["1"] > 50
    # One seed: an end without an interval, and the reason.
    assert "no interval: one seed has no spread" in text


def test_the_teacher_is_small_and_can_be_made_anew(tmp_path):
    """Two iterations instead of hundreds: the same names, shapes and classes in half precision."""
    shipped, made = read_checkpoint(teacher.FILE, "there"), tmp_path / "teacher.pth"
    teacher.make(str(tmp_path), str(made), images={"teacher": 12, "val": 1}, iterations=2)
    assert os.path.getsize(teacher.FILE) < 3e6
    again = read_checkpoint(str(made), "here")
    assert again["kd2"]["classes"] == shipped["kd2"]["classes"] == {"things": list(shapes.CLASSES)}
    formats = [{k: (v.shape, v.dtype) for k, v in content["model"].items()} for content in (again, shipped)]
    assert formats[0] == formats[1]


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


@needs_onnx
def test_own_data_run_with_their_own_classes(tmp_path):
    result = quickstart(str(tmp_path / "out"), data=coco_file(tmp_path), iterations=2)
    assert "2 classes, 5 images for training and 1 for validation" in result["notes"][0]
    assert {"bbox/AP-dog", "bbox/AP-cat"} <= result["groups"][0]["scores"].keys()
    assert result["notes"][1] == "The teacher is trained here, on the same images."


def test_a_single_labeled_image_cannot_be_split(tmp_path):
    with pytest.raises(DataError, match="1 images have boxes, expected at least 2 for training and validation"):
        own_data.reduce(*coco_file(tmp_path, count=1), str(tmp_path / "out"), seed=1)


def test_an_image_of_another_size_than_its_entry_is_named(tmp_path):
    json_file, images = coco_file(tmp_path)
    Image.new("RGB", (20, 30)).save(os.path.join(images, "3.jpg"))
    with pytest.raises(DataError, match=r"3\.jpg: recorded as 400 x 300 pixels, the picture has 20 x 30"):
        own_data.reduce(json_file, images, str(tmp_path / "out"), seed=1)


@needs_onnx
def test_bad_data_give_the_error_text_and_exit_code_1(tmp_path, monkeypatch, capsys):
    json_file, images = coco_file(tmp_path, category=5)
    arguments = ["--data", json_file, images, "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *arguments])
    script = runpy.run_path(str(ROOT / "tools" / "quickstart.py"))
    assert guarded(script["main"]) == 1
    assert "error:" in (text := capsys.readouterr().err)
    assert "category_id 5 is not among the categories 3, 7" in text and "Traceback" not in text


@needs_onnx
def test_a_folder_that_no_quick_start_made_is_left_alone(tmp_path):
    """The user's files have the names of a quick start's."""
    json_file, images = coco_file(tmp_path / "data")
    before = digest(tmp_path)
    with pytest.raises(ConfigError, match="is not empty and no quick start made it; name a new folder"):
        quickstart(str(tmp_path), data=(json_file, images), iterations=1, overwrite=True)
    assert digest(tmp_path) == before


def test_an_earlier_quick_start_is_replaced_only_when_asked(tmp_path):
    own_folder(str(tmp_path), (), overwrite=False)
    first = shapes.write(str(tmp_path / "data"), {"train": 2, "val": 1}, seed=0)
    (tmp_path / "data" / "train" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds a quick start; --overwrite replaces it, another folder keeps it"):
        own_folder(str(tmp_path), (), overwrite=False)
    assert all(Path(path).exists() for path in first.values())
    own_folder(str(tmp_path), (), overwrite=True)
    assert set(digest(tmp_path)) == {"quickstart.mark", "data/train/notes.txt"}


def test_inputs_inside_the_output_folder_are_refused(tmp_path):
    own_folder(str(tmp_path), (), overwrite=False)
    with pytest.raises(ConfigError, match=f"--data {tmp_path}/data/train.json lies in --output {tmp_path}"):
        own_folder(str(tmp_path), (str(tmp_path / "data" / "train.json"),), overwrite=True)


def test_a_missing_package_is_one_line(tmp_path):
    code = "import runpy, sys; sys.modules['lightning'] = None; del sys.argv[0]; "
    code += "runpy.run_path(sys.argv[0], None, '__main__')"
    words = [sys.executable, "-W", "ignore", "-c", code, str(ROOT / "tools" / "quickstart.py"), "--seed", "2"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the package 'lightning' is missing: pip install 'kd2[torchvision]'"
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
