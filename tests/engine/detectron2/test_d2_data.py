"""Own data sets in Detectron2's catalogs, and the stream of training batches."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import itertools
import json
import os
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from kd2.distill import ConfigError, DataError
from kd2.engine.detectron2.data import eval_loader, register, train_loader
from kd2.engine.detectron2.evaluators import build_evaluator

from ...helpers.d2_tiny import FASTER_RCNN, SIZES, load_config, train, write_config, write_data
from ...helpers.drawn_objects import write_kind


@pytest.fixture
def cfg(data, tmp_path):
    cfg = load_config(write_config(tmp_path, data))
    register(cfg, ["tiny"])
    return cfg


def first(cfg, count: int, start: int = 0) -> list[tuple]:
    """What identifies each sample of the first batches: image and augmented box corners."""
    batches = itertools.islice(train_loader(cfg, start), count)
    samples = [sample for batch in batches for sample in batch]
    return [(x["image_id"], x["image"].sum().item(), x["instances"].gt_boxes.tensor.tolist()) for x in samples]


def test_a_custom_data_set_has_detectron2s_records_and_metadata(cfg):
    records, metadata = DatasetCatalog.get("tiny"), MetadataCatalog.get("tiny")
    assert metadata.thing_classes == ["box", "bar"]
    assert metadata.records.records is records
    annotation = records[0]["annotations"][1]
    assert annotation["bbox_mode"] == BoxMode.XYWH_ABS and annotation["category_id"] == 1


def test_registering_twice_is_harmless_and_a_new_source_replaces_the_old(cfg, tmp_path):
    register(cfg, ["tiny"])
    write_data(tmp_path / "other", classes=("one", "two", "three"))
    register(load_config(write_config(tmp_path, tmp_path / "other")), ["tiny"])
    assert MetadataCatalog.get("tiny").thing_classes == ["one", "two", "three"]
    register(cfg, ["tiny"])


def test_perfect_predictions_score_100(cfg, tmp_path):
    evaluator = build_evaluator(cfg, "tiny", str(tmp_path))
    evaluator.reset()
    for sample in eval_loader(cfg, "tiny"):
        record = next(r for r in DatasetCatalog.get("tiny") if r["image_id"] == sample[0]["image_id"])
        evaluator.process(sample, [{"instances": perfect(record)}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def perfect(record):
    from detectron2.structures import Boxes, Instances

    boxes = torch.tensor([a["bbox"] for a in record["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    classes = torch.tensor([a["category_id"] for a in record["annotations"]])
    found = Instances((record["height"], record["width"]))
    found.pred_boxes, found.pred_classes, found.scores = Boxes(boxes), classes, torch.ones(len(classes))
    return found


@pytest.mark.parametrize(
    "sampler",
    [
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ],
)
def test_the_stream_can_start_anywhere(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.7
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["tiny", 1.5]]
    whole = first(cfg, 6)
    assert first(cfg, 3, start=3) == whole[6:]


def test_workers_and_global_generators_do_not_change_the_stream(cfg):
    alone = first(cfg, 3)
    cfg.DATALOADER.NUM_WORKERS = 2
    torch.manual_seed(99)
    assert first(cfg, 3) == alone


def test_a_batch_holds_one_orientation(cfg):
    for batch in itertools.islice(train_loader(cfg), 6):
        assert len({sample["width"] > sample["height"] for sample in batch}) == 1


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("DATALOADER.SAMPLER_TRAIN", "TrainingSample", "is 'TrainingSample'; did you mean TrainingSampler"),
        ("SOLVER.IMS_PER_BATCH", "0", "SOLVER.IMS_PER_BATCH is 0, expected a whole number above 0"),
        ("DATASETS.TRAIN", "['tyni']", "'tyni' is not in DATASETS.CUSTOM or built in; did you mean tiny"),
        ("DATASETS.TRAIN", "[]", "DATASETS.TRAIN is empty"),
        ("SEED", "-1", "SEED is -1"),
    ],
)
def test_a_bad_key_is_named(data, tmp_path, key, value, text):
    path = write_config(tmp_path, data)
    with pytest.raises(ConfigError, match=text):
        train_loader(load_config(path, [key, value]))


def test_a_name_of_detectron2s_own_is_refused(data, tmp_path):
    custom = {"DATASETS": {"CUSTOM": {"coco_2017_val": {"JSON": "a.json", "IMAGES": "b"}}}}
    with pytest.raises(ConfigError, match="DATASETS.CUSTOM.coco_2017_val: Detectron2 has a data set of that name"):
        register(load_config(write_config(tmp_path, data, custom)), ["coco_2017_val"])


def test_a_built_in_data_set_that_is_not_there_is_named(data, tmp_path):
    cfg = load_config(write_config(tmp_path, data, {"DATASETS": {"TRAIN": ["coco_2017_val_100"]}}))
    with pytest.raises(DataError, match="data set 'coco_2017_val_100' cannot be used: .*the data root is"):
        train_loader(cfg)


def broken(data: Path, folder: Path, change) -> str:
    """The config of a copy of the data set whose JSON went through ``change``."""
    content = write_data(folder / "broken")
    change(content)
    (folder / "broken" / "coco.json").write_text(json.dumps(content))
    return write_config(folder, folder / "broken")


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda c: c["images"][0].update(file_name="9.png"), "image '9.png' is not in"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "the data set has no images"),
        (lambda c: c["annotations"][0].update(bbox={"x": 1}), "annotation 1: box .* is not four numbers"),
    ],
)
def test_a_bad_file_stops_before_training(data, tmp_path, change, text):
    with pytest.raises(DataError, match=text):
        register(load_config(broken(data, tmp_path, change)), ["tiny"])


def test_no_object_to_train_on_is_refused(data, tmp_path):
    cfg = load_config(broken(data, tmp_path, lambda content: content["annotations"].clear()))
    with pytest.raises(DataError, match="DATASETS.TRAIN: no image of tiny has an annotation that is not crowd$"):
        train_loader(cfg)


def test_a_set_of_backgrounds_stands_beside_others(data, tmp_path):
    content = write_data(tmp_path / "blank")
    (tmp_path / "blank" / "coco.json").write_text(json.dumps(content | {"annotations": []}))
    blank = {"JSON": str(tmp_path / "blank" / "coco.json"), "IMAGES": str(tmp_path / "blank" / "images")}
    sets = {"CUSTOM": {"blank": blank}, "TRAIN": ["tiny", "blank"]}
    cfg = load_config(write_config(tmp_path, data, {"DATASETS": sets}))
    assert not any("blank" in name for name in file_names(cfg))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert sum("blank" in name for name in file_names(cfg)) == 6


def file_names(cfg) -> set[str]:
    """The images of the first batches."""
    return {sample["file_name"] for batch in itertools.islice(train_loader(cfg), 12) for sample in batch}


def masked(data: Path, folder: Path, **masks):
    """A config of a model with masks, on the data set with the mask of each annotation by its id; default a box."""

    def add(content: dict) -> None:
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotation["segmentation"] = masks.get(f"mask_{annotation['id']}", outline)

    return load_config(broken(data, folder, add), ["MODEL.MASK_ON", "True"])


def test_objects_without_a_mask_are_left_out_of_the_training_of_masks(data, tmp_path):
    cfg = masked(data, tmp_path, mask_1=[])
    samples = [sample for batch in itertools.islice(train_loader(cfg), 6) for sample in batch]
    counts = {(sample["image_id"], len(sample["instances"])) for sample in samples}
    assert (10, 1) in counts and (11, 2) in counts
    cfg.MODEL.MASK_ON = False
    samples = [sample for batch in itertools.islice(train_loader(cfg), 6) for sample in batch]
    assert {len(sample["instances"]) for sample in samples} == {2}


def test_run_length_codes_train_beside_polygons(data, tmp_path):
    height, width = SIZES[0]
    code = {"size": [height, width], "counts": [5, 300, height * width - 305]}
    samples = [s for batch in itertools.islice(train_loader(masked(data, tmp_path, mask_1=code)), 3) for s in batch]
    assert {type(sample["instances"].gt_masks).__name__ for sample in samples} == {"BitMasks"}


@pytest.mark.parametrize("kind", ["no masks", "one mask is missing", "uncompressed masks", "one bad polygon of two"])
def test_a_mask_rcnn_trains_on_the_masks_that_are_there(tmp_path, kind):
    sets = {"CUSTOM": {"tiny": write_kind(tmp_path / "data", kind)}, "TEST": ["tiny"]}
    mask_head = {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 4}
    model = {"MASK_ON": True, "ROI_MASK_HEAD": mask_head}
    changes = {"MODEL": model, "DATASETS": sets, "SOLVER": {"MAX_ITER": 1}}
    scores = train(write_config(tmp_path, tmp_path / "data", changes, detector=FASTER_RCNN))
    assert {"bbox/AP", "segm/AP"} <= set(scores)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_named(data, tmp_path, workers):
    path = broken(data, tmp_path, lambda content: None)
    for number in range(6):
        os.truncate(tmp_path / "broken" / "images" / f"{number}.png", 500)  # the header is whole
    cfg = load_config(path)
    cfg.DATALOADER.NUM_WORKERS = workers
    for loader in (train_loader(cfg), eval_loader(cfg, "tiny")):
        with pytest.raises(DataError, match=r"images.\d.png: not a readable image: "):
            next(iter(loader))


def test_pascal_voc_folders_are_evaluated_through_the_catalog(data, tmp_path):
    folder = tmp_path / "voc"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    os.link(data / "images" / "0.png", folder / "JPEGImages" / "0.png")
    (folder / "ImageSets" / "Main" / "train.txt").write_text("0\n")
    (folder / "Annotations" / "0.xml").write_text(
        "<annotation><size><width>80</width><height>64</height></size><object><name>cell</name>"
        "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"
    )
    cfg = load_config(
        write_config(tmp_path, data, {"DATASETS": {"CUSTOM": {"cells": {"VOC": str(folder), "SPLIT": "train"}}}})
    )
    register(cfg, ["cells"])
    evaluator = build_evaluator(cfg, "cells", str(tmp_path))
    evaluator.reset()
    for sample in eval_loader(cfg, "cells"):
        evaluator.process(sample, [{"instances": perfect(DatasetCatalog.get("cells")[0])}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
