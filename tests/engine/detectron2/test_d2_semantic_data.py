"""Data sets with a class a pixel in Detectron2's catalogs, and what training sees of them."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import itertools

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from kd2.distill import ConfigError, DataError
from kd2.engine.detectron2.data import align_semantic, eval_loader, register, train_loader
from kd2.engine.detectron2.evaluators import build_evaluator

from ...helpers.d2_semantic import CLASSES, semantic_config, write_semantic
from ...helpers.d2_tiny import load_config, train

UNLABELED = ["KD.UNLABELED.DATASETS", "['more']", "KD.UNLABELED.IMS_PER_BATCH", "1"]


@pytest.fixture
def config(pixels, tmp_path):
    return semantic_config(tmp_path, pixels)


def samples(cfg, batches: int, start: int = 0) -> list[dict]:
    return [sample for batch in itertools.islice(train_loader(cfg, start), batches) for sample in batch]


def test_a_custom_data_set_has_detectron2s_records_and_metadata(config, pixels):
    register(load_config(config), ["shapes"])
    metadata, records = MetadataCatalog.get("shapes"), DatasetCatalog.get("shapes")
    assert (metadata.stuff_classes, metadata.ignore_label, metadata.evaluator_type) == (CLASSES, 255, "sem_seg")
    assert records[0]["sem_seg_file_name"] == str(pixels / "labels" / "0.png")


def test_every_sample_has_the_crops_size_and_its_padding_is_ignored(config):
    cfg = load_config(config, ["INPUT.MIN_SIZE_TRAIN", "[24, 40]"])
    for sample in samples(cfg, 4):
        assert sample["image"].shape == (3, 48, 64) and sample["sem_seg"].shape == (48, 64)
        padding = sample["image"][0] == round(sum(cfg.MODEL.PIXEL_MEAN) / 3)
        assert padding[-1, -1] and (sample["sem_seg"][padding] == 255).all()


def test_labels_move_with_their_image(config):
    """Pixels are 100 times the class; in whole steps of scale 1 nothing is interpolated."""
    cfg = load_config(config, ["INPUT.MIN_SIZE_TRAIN", "[0]", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice"])
    for sample in samples(cfg, 4):
        known = sample["sem_seg"] != 255
        assert torch.equal(sample["image"][0][known].long(), 100 * sample["sem_seg"][known])


def test_unlabeled_images_come_last_and_are_ignored_everywhere(config):
    plain, joined = samples(load_config(config), 2), samples(load_config(config, UNLABELED), 2)
    assert [sample["dataset"] for sample in joined] == ["shapes", "shapes", "more"] * 2
    assert all((sample["sem_seg"] == 255).all() for sample in joined[2::3])
    labeled = [sample for sample in joined if sample["dataset"] == "shapes"]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(labeled, plain, strict=True))


def test_the_stream_can_start_anywhere(config):
    cfg = load_config(config, UNLABELED)
    for later, whole in zip(samples(cfg, 2, start=2), samples(cfg, 4)[6:], strict=True):
        assert torch.equal(later["image"], whole["image"]) and torch.equal(later["sem_seg"], whole["sem_seg"])


def test_labels_of_a_color_map_are_evaluated_as_classes(pixels, tmp_path):
    """Scores that say the truth; the files hold colors."""
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    write_semantic(tmp_path / "colored")
    for path in sorted((tmp_path / "colored" / "labels").iterdir()):
        classes = np.array(Image.open(path))
        Image.fromarray(colors[np.where(classes == 255, 0, classes)]).save(path)
    named = {"MAP": {"0,0,0": "ground", "255,0,0": "box", "0,0,255": "bar"}}
    custom = {"DATASETS": {"CUSTOM": {"shapes": named}}}
    cfg = load_config(semantic_config(tmp_path, tmp_path / "colored", custom))
    loader, evaluator = eval_loader(cfg, "shapes"), build_evaluator(cfg, "shapes", str(tmp_path / "results"))
    evaluator.reset()
    for (sample,) in loader:
        truth = torch.from_numpy(np.array(Image.open(sample["file_name"]))[..., 0] // 100)
        scores = torch.nn.functional.one_hot(truth.long(), 3).permute(2, 0, 1)
        evaluator.process([sample], [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


@pytest.mark.parametrize(
    "options, text",
    [
        (["DATASETS.TRAIN", "['shapes', 'tiny']"], "but 'tiny' is no data set .* with classes of pixels"),
        (
            ["DATASETS.TRAIN", "['tiny']", "KD.UNLABELED.DATASETS", "['more']", "KD.UNLABELED.IMS_PER_BATCH", "1"],
            "but 'tiny' is no data set",
        ),
        (["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "11"], "MODEL.SEM_SEG_HEAD.IGNORE_VALUE is 11"),
        (
            ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "4"],
            r"NUM_CLASSES is 4, data set 'shapes' has 3 classes \(ground, box, bar\)",
        ),
        (["INPUT.CROP.SIZE", "[0.5, 0.5]"], r"INPUT.CROP.SIZE is \[0.5, 0.5\], expected height and width in pixels"),
        (["KD.UNLABELED.DATASETS", "['more']"], "KD.UNLABELED.IMS_PER_BATCH is 0, expected both or none"),
        (["TEST.WINDOW.SIZE", "[32, 32]"], r"TEST.WINDOW.SIZE is \[32, 32\] and STRIDE \[\], expected"),
        (["TEST.WINDOW.SIZE", "[8, 8]", "TEST.WINDOW.STRIDE", "[8, 9]"], "two steps of at most"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3']"], "PSPNetHead with AUX_WEIGHT 0.4 needs 2 of res2, res3"),
        (["MODEL.SEM_SEG_HEAD.NAME", "ESPNetCHead"], "MODEL.BACKBONE.NAME is 'build_timm_backbone', ESPNetCHead needs"),
        (["MODEL.SEM_SEG_HEAD.NAME", "ESPNetHead"], "NUM_CLASSES is 3, ESPNetHead needs at least 5"),
        (["MODEL.SEM_SEG_HEAD.NORM", ""], "MODEL.SEM_SEG_HEAD.NORM is empty, PSPNetHead needs"),
        (
            ["SOLVER.IMS_PER_BATCH", "1"],
            "SOLVER.IMS_PER_BATCH is 1, one image a process, expected two or more: the batch norm of PSPNetHead",
        ),
    ],
)
def test_a_bad_key_is_named_before_training(pixels, data, tmp_path, options, text):
    tiny = {"tiny": {"JSON": str(data / "coco.json"), "IMAGES": str(data / "images")}}
    path = semantic_config(tmp_path, pixels, {"DATASETS": {"CUSTOM": tiny}})
    with pytest.raises(ConfigError, match=text):
        train(path, *options)


def outside(folder):
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(folder / "labels" / "0.png")


def other_size(folder):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(folder / "labels" / "0.png")


SIZE = (48, 64)


@pytest.mark.parametrize(
    "spoil, text",
    [
        (outside, "labels/0.png: 3072 pixels hold 7, allowed: 0-2, 255"),
        (other_size, "labels/0.png: 9 x 8 pixels, its image .*images/0.png has 64 x 48"),
        (lambda folder: (folder / "labels" / "0.png").unlink(), "images/0.png: its label file .*0.png does not exist"),
    ],
    ids=["value", "size", "missing"],
)
def test_a_bad_label_stops_training_with_its_file(tmp_path, spoil, text):
    write_semantic(tmp_path / "data", [SIZE])
    spoil(tmp_path / "data")
    with pytest.raises(DataError, match=text):
        train(semantic_config(tmp_path, tmp_path / "data"))


def test_a_test_set_without_labels_is_refused_before_training(config):
    with pytest.raises(DataError, match="DATASETS.TEST: 'more' has 4 images without labels"):
        train(config, "DATASETS.TEST", "['more']")


def test_a_test_set_whose_classes_stand_in_another_order_is_read_in_that_of_the_run(config):
    cfg = load_config(config)
    cfg.DATASETS.CUSTOM.turned = cfg.DATASETS.CUSTOM.shapes.clone()
    cfg.DATASETS.CUSTOM.turned.CLASSES = CLASSES[::-1]
    cfg.DATASETS.CUSTOM.turned.MAP = type(cfg)(dict(enumerate(CLASSES)))
    register(cfg, ["shapes", "turned"])
    assert align_semantic(["turned"], align_semantic(["shapes"], ())) == CLASSES
    metadata = MetadataCatalog.get("turned")
    assert metadata.stuff_classes == CLASSES
    for record in DatasetCatalog.get("turned"):
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        assert np.array_equal(metadata.labels.of(record), labels)
