"""Pascal VOC by Detectron2's names: a perfect prediction scores 100."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import math
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from ...helpers.d2_builtin import built_in, found, scores
from ...helpers.d2_tiny import write_config

HEIGHT, WIDTH = 90, 120
# File -> objects: class, box as VOC counts it (from 1, inclusive), difficult.
PAINTED = {
    "000005": [("chair", (1, 1, 40, 50), 0), ("person", (60, 20, 120, 90), 0), ("dog", (10, 60, 30, 80), 1)],
    "000007": [("person", (5, 5, 50, 60), 0)],
}


def write_voc(root: Path, year: str, painted: dict = PAINTED, optional: bool = True, fraction: str = "") -> None:
    """VOC``year`` with the split val, as the devkit has it; ``optional``: fields that other tools leave out."""
    lists, annotations = root / f"VOC{year}" / "ImageSets" / "Main", root / f"VOC{year}" / "Annotations"
    lists.mkdir(parents=True)
    annotations.mkdir()
    (lists / "val.txt").write_text("\n".join(painted) + "\n")
    for stem, objects in painted.items():
        text = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        for name, box, difficult in objects:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), box)
            more = f"<pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>" if optional else ""
            corners = "".join(f"<{side}>{x}{fraction}</{side}>" for side, x in sides)
            text += f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"
        (annotations / f"{stem}.xml").write_text(f"<annotation><filename>{stem}.jpg</filename>{text}</annotation>")


def perfect(objects: list[tuple], fraction: float = 0) -> dict:
    """Corners of pixels, from 0: a VOC box that begins at its first pixel begins one lower there."""
    boxes = [(a - 1 + fraction, b - 1 + fraction, c + fraction, d + fraction) for _, (a, b, c, d), _ in objects]
    return {"instances": found((HEIGHT, WIDTH), [CLASS_NAMES.index(name) for name, *_ in objects], boxes)}


@pytest.fixture
def config(data, tmp_path) -> str:
    return write_config(tmp_path, data)


def scored(config: str, root: Path, year: str, outputs: list[dict]) -> dict[str, float]:
    pairs = [({"image_id": stem}, output) for stem, output in zip(PAINTED, outputs)]
    with built_in(root):
        assert len(DatasetCatalog.get(f"voc_{year}_val")) == len(PAINTED)
        return scores(config, f"voc_{year}_val", pairs)["bbox"]


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_perfect_boxes_score_100_though_17_classes_do_not_occur(config, tmp_path, year):
    write_voc(tmp_path, year)
    ap = scored(config, tmp_path, year, [perfect(objects) for objects in PAINTED.values()])
    assert ap == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100}, abs=1e-6)


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_what_is_found_of_a_class_that_never_occurs_changes_nothing(config, tmp_path, year):
    write_voc(tmp_path, year)
    more = [*PAINTED["000007"], ("train", (5, 5, 50, 60), 0)]
    ap = scored(config, tmp_path, year, [perfect(PAINTED["000005"]), perfect(more)])
    assert ap["AP"] == pytest.approx(100)


def test_a_class_that_is_not_found_scores_0(config, tmp_path):
    write_voc(tmp_path, "2012")
    persons = [[o for o in objects if o[0] == "person"] for objects in PAINTED.values()]
    assert scored(config, tmp_path, "2012", list(map(perfect, persons)))["AP50"] == pytest.approx(50)
    assert scored(config, tmp_path, "2012", [perfect([]), perfect([])])["AP50"] == 0


def test_coordinates_with_fractions_and_missing_fields_are_read(config, tmp_path):
    """VOC2012 holds some of the one kind, tools for annotation make the other."""
    write_voc(tmp_path, "2012", optional=False, fraction=".5")
    ap = scored(config, tmp_path, "2012", [perfect(objects, 0.5) for objects in PAINTED.values()])
    assert ap["AP"] == pytest.approx(100)


def test_a_test_set_without_objects_is_nan(config, tmp_path):
    write_voc(tmp_path, "2012", dict.fromkeys(PAINTED, []))
    ap = scored(config, tmp_path, "2012", [perfect([]), perfect(PAINTED["000007"])])
    assert all(math.isnan(x) for x in ap.values())
