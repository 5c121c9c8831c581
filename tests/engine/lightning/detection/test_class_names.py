"""Classes of a checkpoint, of test sets and of the config meet by name."""

import json
import shutil

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from kd2.distill import ConfigError, DataError
from kd2.engine import flow

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture
def exchanged(tmp_path, data):
    """The data set with its classes in the other order, on both sides of their numbers; the folder."""
    shutil.copytree(data, tmp_path / "exchanged")
    path = tmp_path / "exchanged" / "coco.json"
    content = json.loads(path.read_text())
    for entry, key in [(c, "id") for c in content["categories"]] + [(a, "category_id") for a in content["annotations"]]:
        entry[key] = {2: 30, 5: 20}[entry[key]]
    path.write_text(json.dumps(content))
    return tmp_path / "exchanged"


def evaluation(folder, data, teacher, *options: str):
    """The experiment that evaluates the trained teacher on a data set."""
    wide = {"MODEL": {"FPN": {"OUT_CHANNELS": 24}}, "DATASETS": {"TEST": ["tiny"]}}
    weights = ["MODEL.WEIGHTS", str(teacher / "out" / "model_final.pth")]
    return runs.experiment(tiny.write_config(folder, data, wide), *weights, *options, eval_only=True)


def test_a_test_set_in_another_order_meets_the_checkpoint(tmp_path, data, teacher, exchanged):
    low = ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]
    scores = flow.evaluate(evaluation(tmp_path, data, teacher, *low))
    other = evaluation(tmp_path, exchanged, teacher, *low)
    assert flow.evaluate(other) == pytest.approx(scores, nan_ok=True)
    assert other.load_data("TEST")[0].classes == ("box", "bar")


def test_without_names_in_the_checkpoint_the_test_set_names_the_classes(tmp_path, exchanged, teacher):
    experiment = evaluation(tmp_path, exchanged, teacher)
    assert experiment.load_data("TEST")[0].classes == ("bar", "box")


def test_a_class_that_the_checkpoint_does_not_know_is_refused(tmp_path, data, teacher):
    shutil.copytree(data, tmp_path / "own")
    path = tmp_path / "own" / "coco.json"
    path.write_text(path.read_text().replace('"bar"', '"beam"'))
    with pytest.raises(DataError, match="has the classes box, beam, the run's are box, bar: there is no 'beam'"):
        flow.evaluate(evaluation(tmp_path, tmp_path / "own", teacher))


def test_classes_of_the_config_decide_the_count(tmp_path, data):
    path = tiny.write_config(tmp_path, data, {"DATASETS": {"CUSTOM": {"tiny": {"CLASSES": ["bar"]}}}})
    with pytest.raises(ConfigError, match="^MODEL.RETINANET.NUM_CLASSES is 2, but .*coco.json has 1 classes: bar$"):
        runs.train(path)
    assert runs.distiller(path, "MODEL.RETINANET.NUM_CLASSES", "1").student.head.classification_head.num_classes == 1
