"""Classes of a checkpoint and of test sets meet by name."""

import pytest

pytest.importorskip("detectron2", reason="needs Detectron2")

import json
import shutil

from detectron2.data import MetadataCatalog

from kd2.distill import ConfigError, DataError
from kd2.engine.detectron2.data import align

from ...helpers.d2_tiny import train, write_config


def renumbered(data, folder, numbers: dict[int, int], name: str = "bar"):
    """A copy of the data set with other numbers of its classes; ``name`` is that of the second."""
    shutil.copytree(data, folder)
    content = json.loads((folder / "coco.json").read_text())
    for entry, key in [(c, "id") for c in content["categories"]] + [(a, "category_id") for a in content["annotations"]]:
        entry[key] = numbers[entry[key]]
    content["categories"][1]["name"] = name
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def evaluated(folder, data, trained) -> dict[str, float]:
    low = {"MODEL": {"RETINANET": {"SCORE_THRESH_TEST": 0.0}}, "DATASETS": {"TEST": ["tiny"]}}
    folder.mkdir(exist_ok=True)
    return train(write_config(folder, data, low), "MODEL.WEIGHTS", str(trained / "model_final.pth"), eval_only=True)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The output folder of a run of four iterations."""
    folder = tmp_path_factory.mktemp("trained")
    train(write_config(folder, data))
    return folder / "out"


def test_a_test_set_in_another_order_meets_the_checkpoint(tmp_path, data, trained):
    scores = evaluated(tmp_path / "a", data, trained)
    other = renumbered(data, tmp_path / "data", {2: 30, 5: 20})
    assert evaluated(tmp_path / "b", other, trained) == pytest.approx(scores, nan_ok=True)
    assert MetadataCatalog.get("tiny").thing_classes == ["box", "bar"]


def test_a_class_that_the_checkpoint_does_not_know_is_refused(tmp_path, data, trained):
    other = renumbered(data, tmp_path / "data", {2: 2, 5: 5}, name="beam")
    with pytest.raises(DataError, match="has the classes box, beam, the run's are box, bar: there is no 'beam'"):
        evaluated(tmp_path / "a", other, trained)


def test_data_sets_of_detectron2_need_the_runs_order():
    assert align(["coco_2017_val"], ())[:2] == ["person", "bicycle"]
    with pytest.raises(ConfigError, match="^coco_2017_val and the run differ in class 0: 'person' and 'bicycle'"):
        align(["coco_2017_val"], ["bicycle", "person"])
