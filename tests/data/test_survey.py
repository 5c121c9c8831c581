"""What a data set holds, counted."""

from pathlib import Path

import numpy as np
from PIL import Image

from kd2.data.classification.image_dataset import read_folder
from kd2.data.detection.records import Records
from kd2.data.findings import Findings
from kd2.data.segmentation.semantic import load_semantic
from kd2.data.survey import Survey, survey

from ..helpers.image_files import draw


def detection(folder: Path) -> Records:
    """Three pictures; objects of 31, 32, 96 and 97 pixels a side, one of them a crowd, one with a mask."""
    records = []
    for number, size in enumerate([(200, 100), (120, 120), (40, 30)]):
        path = draw(folder / f"{number}.png", size=size)
        records.append({"file_name": str(path), "width": size[0], "height": size[1], "annotations": []})
    for record, index, side, more in [
        (0, 0, 31, {}),
        (0, 0, 32, {"iscrowd": 1}),
        (0, 1, 96, {"segmentation": [[0, 0, 96, 0, 96, 96]], "area": 96 * 96}),
        (1, 0, 97, {}),
    ]:
        box = {"bbox": [0.0, 0.0, float(side), float(side)], "category_id": index, "iscrowd": 0}
        records[record]["annotations"].append(box | more)
    return Records("drawn", ("cell", "bolt", "nut"), records, "drawn.json", findings=Findings("drawn.json"))


def rows(found: Survey) -> dict[str, tuple[int, str]]:
    return {what: (count, more) for what, count, more in found.rows}


def test_objects_are_counted_by_class_and_by_size(tmp_path):
    found = rows(survey(detection(tmp_path)))
    assert found["images"] == (3, "1 without objects")
    assert found["objects"] == (4, "1 small, 2 medium, 1 large; 1 crowd, 1 with a mask")
    assert found["class cell"] == (3, "in 2 images")
    assert found["class bolt"] == (1, "in 1 images")
    assert found["class nut"] == (0, "in 0 images")


def test_sizes_of_images_are_ordered_by_their_pixels(tmp_path):
    text = "smallest 40 x 30, median 120 x 120, largest 200 x 100"
    assert rows(survey(detection(tmp_path)))["different sizes (width x height)"] == (3, text)


def test_what_the_reader_found_is_counted(tmp_path):
    data = detection(tmp_path)
    for number in range(7):
        data.findings.dropped("box has no area", number)
    data.findings.repaired("size is missing", "a.png")
    found = survey(data)
    assert rows(found)["dropped: box has no area"] == (7, "0, 1, 2, 3, 4, ...")
    assert rows(found)["repaired: size is missing"] == (1, "a.png")
    assert found.refused == []


def test_pictures_that_are_missing_broken_or_of_another_size_are_refused(tmp_path):
    data = detection(tmp_path)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no picture")
    draw(tmp_path / "2.png", size=(30, 40))
    found = survey(data)
    assert rows(found)["refused: picture cannot be read"][0] == 2
    other = f"drawn.json: picture has another size than its record (1: {tmp_path / '2.png'})"
    assert len(found.refused) == 2 and found.refused[1] == other


def semantic(folder: Path, **entry) -> Survey:
    return survey(load_semantic("mine", {"mine": entry_of(folder) | entry}))


def entry_of(folder: Path) -> dict:
    return {"IMAGES": str(folder / "images"), "LABELS": str(folder / "labels"), "CLASSES": ["cat", "dog"]}


def test_classes_of_pixels_are_counted_by_images_and_pixels(tmp_path):
    for stem, values in {"a": (0, 0, 0, 0, 1, 255), "b": (0, 0, 0, 0, 0, 0)}.items():
        draw(tmp_path / "images" / f"{stem}.jpg")
        draw(tmp_path / "labels" / f"{stem}.png", values)
    found = rows(semantic(tmp_path))
    assert found["images"] == (2, "0 without labels")
    assert found["class cat"] == (2, "images show it, 90.91 % of the labeled pixels")
    assert found["class dog"] == (1, "images show it, 9.091 % of the labeled pixels")
    assert found["ignored"] == (1, "images have such pixels, 8.333 % of all")


def test_every_label_file_with_a_foreign_value_is_counted(tmp_path):
    for stem in "abc":
        draw(tmp_path / "images" / f"{stem}.jpg")
        draw(tmp_path / "labels" / f"{stem}.png", (0, 1))
    data = load_semantic("mine", {"mine": entry_of(tmp_path)})
    draw(tmp_path / "labels" / "b.png", (7,))
    draw(tmp_path / "labels" / "c.png", (0, 9))
    found = survey(data)
    assert rows(found)["refused: label file cannot be used"][0] == 2
    (text,) = found.refused
    assert "b.png: 6 pixels hold 7, allowed: 0-1, 255" in text and "c.png: 3 pixels hold 9" in text


def test_images_without_labels_are_counted(tmp_path):
    draw(tmp_path / "a.png")
    data = load_semantic("more", {"more": {"UNLABELED": str(tmp_path)}})
    assert rows(survey(data))["images"] == (1, "1 without labels")


def test_images_are_counted_by_class(tmp_path):
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        draw(tmp_path / name, size=(4, 6) if "a" in Path(name).stem else (8, 8))
    (tmp_path / "dog" / "d.png").write_bytes(b"")
    found = survey(read_folder("pets", str(tmp_path)))
    assert rows(found)["class cat"] == (2, "") and rows(found)["class dog"] == (2, "")
    assert rows(found)["different sizes (width x height)"] == (2, "smallest 4 x 6, median 8 x 8, largest 8 x 8")
    assert len(found.refused) == 1 and "dog/d.png" in found.refused[0]


def test_of_very_many_classes_the_last_are_told_together(tmp_path):
    data = detection(tmp_path)
    names = tuple(f"c{i}" for i in range(102))
    data.records[1]["annotations"].append({"bbox": [0.0, 0.0, 9.0, 9.0], "category_id": 101, "iscrowd": 0})
    found = rows(survey(Records("many", names, data.records, "many.json")))
    assert found["2 more classes"] == (1, "0 to 1 each") and "class c100" not in found


def test_a_picture_of_another_form_is_no_fault(tmp_path):
    """Gray and with a palette: the header tells the size."""
    data = detection(tmp_path)
    Image.fromarray(np.zeros((100, 200), np.uint8)).convert("P").save(tmp_path / "0.png")
    assert survey(data).refused == []
