"""tools/check_data.py as a command, and its tables in a dry run, on the roads of torchvision and timm."""

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from PIL import Image

from ...helpers import tiny_classification, tiny_detection, tiny_segmentation
from ...helpers.launch import ROOT


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script of tools/ in this process; gives its exit code, rows of its tables by name, and error lines."""

    def called(*words: str, script: str = "check_data") -> tuple[int, dict[str, dict[str, list[str]]], list[str]]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools" / f"{script}.py"), run_name="__main__")
        said, errors = capsys.readouterr()
        tables: dict[str, dict[str, list[str]]] = {}
        for block in said.split("\n\n"):
            cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
            if len(cells) > 2 and cells[0][1:] == ["count", ""]:
                tables[cells[0][0]] = {row[0]: row[1:] for row in cells[2:]}
        return end.value.code, tables, [line for line in errors.splitlines() if line.startswith("error: ")]

    return called


def with_more(folder: Path, data: Path, content: dict, **sets) -> str:
    """The detector's config with a second data set ``more`` of this JSON beside ``tiny``."""
    (folder / "more.json").write_text(json.dumps(content))
    custom = {
        "tiny": {"JSON": str(data / "coco.json"), "IMAGES": str(data / "images")},
        "more": {"JSON": str(folder / "more.json"), "IMAGES": str(data / "images")},
    }
    return tiny_detection.write_config(folder, data, {"DATASETS": {"CUSTOM": custom, **sets}})


@pytest.fixture
def content(data) -> dict:
    return json.loads((data / "coco.json").read_text())


def test_a_table_is_printed_of_each_data_set(run, tmp_path, data, content):
    config = with_more(tmp_path, data, content, TRAIN=["tiny"], TEST=["more", "tiny"])
    code, tables, errors = run("--config-file", config)
    assert (code, errors, list(tables)) == (0, [], ["tiny", "more"])
    assert tables["tiny"]["images"] == ["6", "0 without objects"]
    assert tables["tiny"]["class box"] == ["6", "in 6 images"]


def test_a_missing_picture_is_an_error_and_the_other_data_sets_are_read_nevertheless(run, tmp_path, data, content):
    content["images"][1]["file_name"] = "gone.png"
    config = with_more(tmp_path, data, content, TRAIN=["more"], TEST=["tiny"])
    code, tables, errors = run("--config-file", config)
    assert code == 1 and list(tables) == ["more", "tiny"]
    assert tables["more"]["refused"][0] == "1" and tables["tiny"]["images"][0] == "6"
    assert len(errors) == 1 and "gone.png" in errors[0]


def test_pictures_are_drawn_of_what_can_be_used(run, tmp_path, data, content):
    content["images"][1]["file_name"] = "gone.png"
    config = with_more(tmp_path, data, content, TRAIN=["more", "tiny"])
    run("--config-file", config, "--pictures", str(tmp_path / "look"))
    assert [path.name for path in (tmp_path / "look").iterdir()] == ["tiny.png"]
    assert Image.open(tmp_path / "look" / "tiny.png").width == 4 * 408 + 8


def test_classes_of_pixels_and_unlabeled_images_are_counted(run, tmp_path, semantic_data):
    more = {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 2}}}
    config = tiny_segmentation.write_config(tmp_path, semantic_data, more)
    code, tables, _ = run("--config-file", config)
    assert code == 0 and list(tables) == ["drawn", "more"]
    assert {f"class {name}" for name in tiny_segmentation.CLASSES} < set(tables["drawn"])
    images = tables["more"]["images"]
    assert images[1] == f"{images[0]} without labels"


def test_images_of_classes_are_counted(run, tmp_path, pictures):
    config = tiny_classification.write_config(tmp_path, pictures, {"DATASETS": {"TEST": ["tiny_test"]}})
    code, tables, _ = run("--config-file", config)
    assert code == 0 and "tiny_test" in tables
    for rows in tables.values():
        assert int(rows["images"][0]) == sum(int(rows[f"class {name}"][0]) for name in tiny_classification.CLASSES)


def test_a_config_without_data_sets_is_refused(run, tmp_path, data):
    config = tiny_detection.write_config(tmp_path, data, {"DATASETS": {"TRAIN": []}})
    assert run("--config-file", config)[2] == [
        "error: DATASETS.TRAIN, DATASETS.TEST and KD.UNLABELED.DATASETS are empty: there is no data set"
    ]


def test_a_dry_run_prints_the_tables_first(run, tmp_path, data, teacher):
    config = tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))
    code, tables, _ = run("--config-file", config, script="preflight")
    assert code == 0 and tables["tiny"]["images"][0] == "6"


def test_a_dry_run_ends_with_data_that_cannot_be_used(run, tmp_path, data, teacher, content):
    content["images"][1]["file_name"] = "gone.png"
    config = with_more(tmp_path, data, content, TRAIN=["tiny"], TEST=["more"])
    code, tables, errors = run("--config-file", config, script="preflight")
    assert code == 1 and "tiny" in tables and len(errors) == 1 and "gone.png" in errors[0]
