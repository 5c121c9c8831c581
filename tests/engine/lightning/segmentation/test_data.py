"""Records to batches: resizing, crops, padding, unlabeled images, bad input."""

import itertools
import shutil

import numpy as np
import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from PIL import Image
from torchvision import tv_tensors

from kd2.distill import ConfigError, DataError
from kd2.engine.lightning.images import Crop
from kd2.engine.lightning.segmentation.data import check, collate, load_all, training_batches
from kd2.engine.lightning.segmentation.data import test_batches as batches_of
from kd2.engine.lightning.segmentation.mapper import SemanticMapper

from ....helpers import lightning_runs as runs
from ....helpers import tiny_segmentation as tiny


def batches(data, changes: dict | None = None, start: int = 0):
    cfg = tiny.config(changes, data)
    return iter(training_batches(cfg, load_all(cfg, "TRAIN"), start, rank=0, ranks=1))


def test_a_batch_has_the_size_of_the_crop_and_255_beyond_the_images(semantic_data):
    batch = next(batches(semantic_data, {"INPUT": {"MIN_SIZE_TRAIN": [32], "CROP": {"SIZE": [40, 96]}}}))
    assert batch.size == (40, 96) and batch.labels.shape == (2, 40, 96)
    for image, labels in zip(batch.images, batch.labels):
        height, width = image.shape[1:]
        assert height <= 40 and width < 96 and set(labels[:height, :width].unique().tolist()) <= {0, 1, 2, 255}
        assert labels[:, width:].unique().tolist() == [255]


def test_without_a_crop_a_batch_has_the_size_of_its_largest_image(semantic_data):
    batch = next(batches(semantic_data, {"INPUT": {"CROP": {"ENABLED": False}}}))
    assert batch.size == tuple(max(x.shape[side] for x in batch.images) for side in (1, 2))


def test_image_and_labels_are_cropped_alike():
    image = torch.arange(35, dtype=torch.uint8).reshape(1, 5, 7)
    crop, mask = Crop((3, 9))(tv_tensors.Image(image), tv_tensors.Mask(image[0]))
    assert crop.shape == (1, 3, 7) and torch.equal(crop[0], mask)


def test_labels_lie_on_their_pixels(semantic_data):
    """The rectangles are bright in their own color, whatever was resized, cropped and flipped."""
    batch = next(batches(semantic_data))
    for image, labels in zip(batch.images, batch.labels):
        for k in (1, 2):
            inside = image[k][(labels == k)[: image.shape[1], : image.shape[2]]]
            assert (inside > 150).float().mean() > 0.95


def test_bgr_turns_the_channels_around(semantic_data):
    cfg = tiny.config(data=semantic_data)
    data = load_all(cfg, "TRAIN")
    rgb = SemanticMapper(cfg, data, training=False)(data[0].records[0])[0]
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(SemanticMapper(cfg, data, training=False)(data[0].records[0])[0], rgb.flip(0))


def test_test_images_are_resized_and_their_labels_are_not(semantic_data):
    sizes = {"MIN_SIZE_TEST": 24, "MAX_SIZE_TEST": 30}
    cfg = tiny.config({"INPUT": sizes, "DATASETS": {"TEST": ["drawn"]}}, semantic_data)
    batch = next(iter(batches_of(cfg, load_all(cfg, "TEST")[0], 0, 1)))
    assert batch.images[0].shape == (3, 22, 30) and batch.size == (48, 64) == tuple(batch.labels.shape[1:])


def test_unlabeled_images_come_last_and_hold_255(semantic_data):
    batch = next(batches(semantic_data, {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1}}}))
    assert [r["dataset"] for r in batch.records] == ["drawn", "drawn", "more"]
    assert batch.labels[2].unique().tolist() == [255] and 0 in batch.labels[:2]


def test_labels_of_a_data_set_that_serves_without_them_are_not_read(semantic_data):
    batch = next(batches(semantic_data, {"KD": {"UNLABELED": {"DATASETS": ["drawn"], "IMS_PER_BATCH": 2}}}))
    assert batch.labels[2:].unique().tolist() == [255]


def test_labeled_samples_do_not_depend_on_the_unlabeled_ones(semantic_data):
    alone = next(batches(semantic_data))
    joined = next(batches(semantic_data, {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1}}}))
    assert all(torch.equal(a, b) for a, b in zip(alone.images, joined.images))


def test_a_loader_that_starts_later_goes_on_as_if_it_had_not_stopped(semantic_data):
    changes = {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1}}}
    whole, late = batches(semantic_data, changes), batches(semantic_data, changes, start=2)
    next(whole), next(whole)
    a, b = next(whole), next(late)
    assert torch.equal(a.labels, b.labels) and all(torch.equal(x, y) for x, y in zip(a.images, b.images))


def test_batches_on_a_device_have_int64_labels():
    sample = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8), {}
    assert collate([sample]).to(torch.device("cpu")).labels.dtype == torch.int64


@pytest.fixture
def own_data(tmp_path, semantic_data):
    """A copy of the data to spoil."""
    shutil.copytree(semantic_data, tmp_path / "data")
    return tmp_path / "data"


def trained(tmp_path, data):
    runs.train(tiny.write_config(tmp_path, data))


def test_a_label_outside_the_class_list_is_named(tmp_path, own_data):
    for path in (own_data / "labels").iterdir():
        labels = np.array(Image.open(path))
        labels[:2] = 9
        Image.fromarray(labels).save(path)
    with pytest.raises(DataError, match=r"labels/\d.png: \d+ pixels hold 9, allowed: 0-4, 255"):
        trained(tmp_path, own_data)


def test_a_label_of_another_size_than_its_image_is_named(tmp_path, own_data):
    Image.fromarray(np.zeros((48, 60), dtype=np.uint8)).save(own_data / "labels" / "0.png")
    with pytest.raises(DataError, match=r"labels/0.png: 60 x 48 pixels, its image .*images/0.png has 64 x 48"):
        trained(tmp_path, own_data)


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_an_image_of_which_resizing_leaves_nothing_is_named(own_data, split):
    for side in ("images", "labels"):
        path = own_data / side / "0.png"
        Image.open(path).resize((2000, 2), Image.Resampling.NEAREST).save(path)
    cfg = tiny.config({"DATASETS": {"TEST": ["drawn"]}, "INPUT": {"MIN_SIZE_TEST": 48, "MAX_SIZE_TEST": 96}}, own_data)
    data = load_all(cfg, split)
    loader = training_batches(cfg, data, 0, 0, 1) if split == "TRAIN" else batches_of(cfg, data[0], 0, 1)
    with pytest.raises(DataError, match=r"images/0.png: cannot be used: its 2000 x 2 pixels become \d+ x 0 by the"):
        list(itertools.islice(loader, 5))


def test_a_missing_label_is_named(tmp_path, own_data):
    (own_data / "labels" / "3.png").unlink()
    with pytest.raises(DataError, match="images/3.png: its label file .*labels/3.png does not exist"):
        trained(tmp_path, own_data)


@pytest.mark.parametrize(
    "changes, text",
    [
        (
            {"MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 4}}},
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 4, but .* has 5 classes: gro",
        ),
        ({"DATASETS": {"TRAIN": []}}, "DATASETS.TRAIN is empty, expected names of DATASETS.CUSTOM or of cityscapes"),
        ({"DATASETS": {"TRAIN": ["drwn"]}}, r"DATASETS.TRAIN: no data set 'drwn' in .*; did you mean drawn\?"),
        (
            {"TEST": {"WINDOW": {"SIZE": [8, 8]}}},
            r"TEST.WINDOW.SIZE is \[8, 8\] and STRIDE \[\], expected two sides and",
        ),
        (
            {"TEST": {"WINDOW": {"SIZE": [8, 8], "STRIDE": [9, 8]}}},
            r"TEST.WINDOW.SIZE is \[8, 8\] and STRIDE \[9, 8\], expected .* two steps of at most these",
        ),
        (
            {"KD": {"UNLABELED": {"DATASETS": ["more"]}}},
            r"KD.UNLABELED.DATASETS is \['more'\] and .* is 0, expected both",
        ),
        (
            {"DATASETS": {"TRAIN": ["more"]}},
            "DATASETS.TRAIN: 'more' has no labels, expected it in KD.UNLABELED.DATASETS",
        ),
        (
            {"SOLVER": {"IMS_PER_BATCH": 1}},
            "SOLVER.IMS_PER_BATCH is 1, one image a process, expected two or more: the batch norm of PSPNet",
        ),
    ],
)
def test_what_cannot_be_used_is_named(semantic_data, changes, text):
    cfg = tiny.config(changes, semantic_data)
    with pytest.raises(ConfigError, match=f"^{text}"):
        data = load_all(cfg, "TRAIN")
        check(cfg, data)
        training_batches(cfg, data, 0, 0, 1)


def test_a_test_set_whose_classes_stand_in_another_order_is_read_in_that_of_the_run(semantic_data):
    drawn = tiny.data_sets(semantic_data)["drawn"]
    other = drawn | {"CLASSES": tiny.CLASSES[::-1], "MAP": dict(enumerate(tiny.CLASSES))}
    cfg = tiny.config({"DATASETS": {"TEST": ["other", "drawn"], "CUSTOM": {"other": other}}}, semantic_data)
    turned, plain = load_all(cfg, "TEST", tiny.CLASSES)
    assert turned.classes == plain.classes == tuple(tiny.CLASSES)
    for one, two in zip(turned.records, plain.records):
        assert np.array_equal(turned.labels.of(one), plain.labels.of(two))
    other["CLASSES"] = ["sky", *tiny.CLASSES[1:]]
    other["MAP"] = {0: "sky", 1: "box", 2: "bar"}
    cfg = tiny.config({"DATASETS": {"TEST": ["other"], "CUSTOM": {"other": other}}}, semantic_data)
    with pytest.raises(
        DataError, match="has the classes sky, box, .* the run's are ground, box, .*: there is no 'sky'"
    ):
        load_all(cfg, "TEST", tiny.CLASSES)
