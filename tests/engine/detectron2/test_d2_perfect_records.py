"""A perfect prediction of what is painted scores 100, however its annotation file was written."""

import pytest

pytest.importorskip("detectron2", reason="needs Detectron2")

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from kd2.engine.detectron2.data import align, register
from kd2.engine.detectron2.evaluators import build_evaluator

from ...helpers import d2_tiny as tiny
from ...helpers import drawn_objects as drawn

WITHOUT_MASKS = ["no masks", "masks of two points", "masks out of the world", "masks of another size"]
MASKS = {"MODEL": {"MASK_ON": True}}


@pytest.fixture
def scored(tmp_path):
    """The scores of a perfect detector on the data set ``test`` of a run that is trained on ``train``."""

    def score(custom: dict, train: str, test: str, *changes: dict, find=drawn.painted) -> dict[str, dict[str, float]]:
        changes = ({"DATASETS": {"CUSTOM": custom, "TRAIN": [train], "TEST": [test]}}, *changes)
        cfg = tiny.load_config(tiny.write_config(tmp_path, tmp_path, *changes))
        register(cfg, [train, test])
        align([test], align([train], ()))
        evaluator = build_evaluator(cfg, test)
        evaluator.reset()
        for record in DatasetCatalog.get(test):
            found = find(record["file_name"], tuple(MetadataCatalog.get(test).thing_classes), masks=cfg.MODEL.MASK_ON)
            instances = Instances((record["height"], record["width"]))
            instances.pred_boxes = Boxes(torch.from_numpy(found["boxes"]))
            instances.scores = torch.from_numpy(found["scores"])
            instances.pred_classes = torch.from_numpy(found["classes"])
            if cfg.MODEL.MASK_ON:
                instances.pred_masks = torch.from_numpy(found["masks"])
            evaluator.process([{"image_id": record["image_id"]}], [{"instances": instances}])
        return evaluator.evaluate()

    return score


@pytest.mark.parametrize("kind", drawn.KINDS)
def test_boxes_score_100(tmp_path, scored, kind):
    scores = scored({"x": drawn.write_kind(tmp_path / "data", kind)}, "x", "x")["bbox"]
    assert [scores[name] for name in ("AP", "AP-cat", "AP-dog")] == [100, 100, 100]


@pytest.mark.parametrize("kind", [kind for kind in drawn.COCO_KINDS if kind not in WITHOUT_MASKS])
def test_masks_score_100(tmp_path, scored, kind):
    scores = scored({"x": drawn.write_kind(tmp_path / "data", kind)}, "x", "x", MASKS)
    assert [scores["bbox"]["AP"], scores["segm"]["AP"]] == [100, 100]


@pytest.mark.parametrize("kind", WITHOUT_MASKS)
def test_masks_without_a_usable_one_are_nan(tmp_path, scored, kind):
    scores = scored({"x": drawn.write_kind(tmp_path / "data", kind)}, "x", "x", MASKS)
    assert scores["bbox"]["AP"] == 100 and np.isnan(scores["segm"]["AP"])


@pytest.mark.parametrize("train", ["json", "voc"])
@pytest.mark.parametrize("test", ["json", "voc"])
def test_json_and_voc_of_one_data_set_meet_by_name(tmp_path, scored, train, test):
    """The alphabet and the numbers of the file give different orders."""
    numbers = {1: 9, 2: 4}
    content = drawn.coco()
    for entry, key in [(c, "id") for c in content["categories"]] + [(a, "category_id") for a in content["annotations"]]:
        entry[key] = numbers[entry[key]]
    custom = {"json": drawn.write_coco(tmp_path / "j", content), "voc": drawn.write_voc(tmp_path / "v")}
    assert scored(custom, train, test)["bbox"]["AP"] == 100
    order = ["dog", "cat"] if train == "json" else ["cat", "dog"]
    assert MetadataCatalog.get(train).thing_classes == MetadataCatalog.get(test).thing_classes == order


@pytest.mark.parametrize(("limit", "expected"), [(300, 100.0), (100, 33.66336633663)])
def test_the_number_of_objects_an_image_is_scored_with(tmp_path, scored, limit, expected):
    content = drawn.coco()
    corners = [(x, y) for y in range(0, 60, 4) for x in range(0, 80, 4)]
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, y, 3, 3]} for i, (x, y) in enumerate(corners)
    ]
    boxes = np.array([[x, y, x + 3, y + 3] for x, y in corners], dtype=np.float32)

    def find(file_name: str, classes: tuple[str, ...], masks: bool) -> dict[str, np.ndarray]:
        own = boxes if file_name.endswith("im0.jpg") else boxes[:0]
        return {"boxes": own, "scores": np.linspace(0.9, 0.1, len(own)), "classes": np.zeros(len(own), dtype=int)}

    custom = {"x": drawn.write_coco(tmp_path / "data", content)}
    scores = scored(custom, "x", "x", {"TEST": {"DETECTIONS_PER_IMAGE": limit}}, find=find)
    assert scores["bbox"]["AP"] == pytest.approx(expected)


def test_no_detections_score_0_where_there_is_something_to_find(tmp_path, scored):
    def nothing(file_name: str, classes: tuple[str, ...], masks: bool) -> dict[str, np.ndarray]:
        return {key: value[:0] for key, value in drawn.painted(file_name, classes, masks).items()}

    content = drawn.coco()
    content["categories"].append({"id": 3, "name": "cow"})
    scores = scored({"x": drawn.write_coco(tmp_path / "data", content)}, "x", "x", MASKS, find=nothing)
    for kind in ("bbox", "segm"):
        assert [scores[kind][name] for name in ("AP", "AP-cat", "AP-dog")] == [0, 0, 0]
        assert np.isnan(scores[kind]["AP-cow"])
