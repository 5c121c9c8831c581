"""A perfect prediction of what is painted scores 100, however its annotation file was written."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import torch

from kd2.engine.lightning.detection.data import Batch
from kd2.engine.lightning.detection.experiment import DetectionExperiment

from ....helpers import drawn_objects as drawn
from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

WITHOUT_MASKS = ["no masks", "masks of two points", "masks out of the world", "masks of another size"]


def loaded(custom: dict, train: str, test: str, **changes):
    """The test set as training has it, and its evaluator."""
    datasets = {"CUSTOM": custom, "TRAIN": [train], "TEST": [test]}
    experiment = DetectionExperiment(tiny.config({"DATASETS": datasets, **changes}), runs.arguments())
    experiment.load_data("TRAIN")
    (data,) = experiment.load_data("TEST")
    return data, experiment.evaluator(data)


def scored(data, evaluator, masks: bool = False) -> dict[str, float]:
    """The scores of a perfect detector."""
    for record in data.records:
        found = drawn.painted(record["file_name"], data.classes, masks)
        output = {"boxes": found["boxes"], "scores": found["scores"], "labels": found["classes"]}
        if masks:
            output["masks"] = found["masks"][:, None].astype(np.float32)
        output = {key: torch.from_numpy(value) for key, value in output.items()}
        evaluator.process(Batch([], [], [], [record]), [output])
    return evaluator.evaluate()


@pytest.mark.parametrize("kind", drawn.KINDS)
def test_boxes_score_100(tmp_path, kind):
    scores = scored(*loaded({"x": drawn.write_kind(tmp_path, kind)}, "x", "x"))
    assert [scores[f"bbox/{name}"] for name in ("AP", "AP-cat", "AP-dog")] == [100, 100, 100]


@pytest.mark.parametrize("kind", [kind for kind in drawn.COCO_KINDS if kind not in WITHOUT_MASKS])
def test_masks_score_100(tmp_path, kind):
    custom = {"x": drawn.write_kind(tmp_path, kind)}
    scores = scored(*loaded(custom, "x", "x", MODEL={"META_ARCHITECTURE": "MaskRCNN"}), masks=True)
    assert [scores["bbox/AP"], scores["segm/AP"]] == [100, 100]


@pytest.mark.parametrize("kind", WITHOUT_MASKS)
def test_masks_without_a_usable_one_are_nan(tmp_path, kind):
    custom = {"x": drawn.write_kind(tmp_path, kind)}
    scores = scored(*loaded(custom, "x", "x", MODEL={"META_ARCHITECTURE": "MaskRCNN"}), masks=True)
    assert scores["bbox/AP"] == 100 and np.isnan(scores["segm/AP"])


@pytest.mark.parametrize("train", ["json", "voc"])
@pytest.mark.parametrize("test", ["json", "voc"])
def test_json_and_voc_of_one_data_set_meet_by_name(tmp_path, train, test):
    """The alphabet and the numbers of the file give different orders."""
    numbers = {1: 9, 2: 4}
    content = drawn.coco()
    for entry, key in [(c, "id") for c in content["categories"]] + [(a, "category_id") for a in content["annotations"]]:
        entry[key] = numbers[entry[key]]
    custom = {"json": drawn.write_coco(tmp_path / "j", content), "voc": drawn.write_voc(tmp_path / "v")}
    data, evaluator = loaded(custom, train, test)
    assert data.classes == (("dog", "cat") if train == "json" else ("cat", "dog"))
    assert scored(data, evaluator)["bbox/AP"] == 100


@pytest.mark.parametrize(("limit", "expected"), [(300, 100.0), (100, 33.66336633663)])
def test_the_number_of_objects_an_image_is_scored_with(tmp_path, limit, expected):
    content = drawn.coco()
    corners = [(x, y) for y in range(0, 60, 4) for x in range(0, 80, 4)]
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, y, 3, 3]} for i, (x, y) in enumerate(corners)
    ]
    custom = {"x": drawn.write_coco(tmp_path, content)}
    data, evaluator = loaded(custom, "x", "x", TEST={"DETECTIONS_PER_IMAGE": limit})
    boxes = torch.tensor([[x, y, x + 3, y + 3] for x, y in corners], dtype=torch.float32)
    output = {"boxes": boxes, "scores": torch.linspace(0.9, 0.1, 300), "labels": torch.zeros(300, dtype=torch.int64)}
    evaluator.process(Batch([], [], [], [data.records[0]]), [output])
    assert evaluator.evaluate()["bbox/AP"] == pytest.approx(expected)
