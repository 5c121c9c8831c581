"""Records to images and targets."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from kd2.data.seeding import seeded
from kd2.data.stream import mapped
from kd2.distill import ConfigError, DataError
from kd2.engine.lightning.detection.data import DetectionMapper, collate

from ....helpers import tiny_detection as tiny

# One white rectangle on black; its box, in pixels.
HEIGHT, WIDTH, BOX = 48, 64, (8, 12, 24, 16)


@pytest.fixture
def record(tmp_path):
    """An image with one white rectangle, and its annotation."""
    x, y, w, h = BOX
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    annotation = {"bbox": list(BOX), "category_id": 1, "iscrowd": 0, "segmentation": [polygon]}
    shape = {"height": HEIGHT, "width": WIDTH}
    return shape | {"file_name": str(tmp_path / "a.png"), "image_id": 5, "annotations": [annotation]}


def mapper(training: bool = True, masks: bool = False, **entries) -> DetectionMapper:
    cfg = tiny.config({"INPUT": {"MIN_SIZE_TRAIN": [40, 96], "MAX_SIZE_TRAIN": 200} | entries})
    return DetectionMapper(cfg, training, masks)


def extent(picture: torch.Tensor) -> torch.Tensor:
    """The box x1 y1 x2 y2 around everything brighter than half."""
    y, x = (picture > picture.max() / 2).nonzero(as_tuple=True)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_box_and_mask_stay_on_the_object(record, flip, seed):
    with seeded(seed):
        image, target, _ = mapper(masks=True, RANDOM_FLIP=flip)(record)
    shown = extent(image[0].float())
    assert (target["boxes"][0] - shown).abs().max() <= 1 and (extent(target["masks"][0]) - shown).abs().max() <= 1


def outcomes(record: dict, **entries) -> list[tuple]:
    """(image size, box) of many draws."""
    seen = []
    for seed in range(30):
        with seeded(seed):
            image, target, _ = mapper(**entries)(record)
        seen.append((tuple(image.shape[1:]), tuple(target["boxes"][0].tolist())))
    return seen


def test_every_size_of_a_choice_is_drawn(record):
    assert {size for size, _ in outcomes(record)} == {(40, 53), (96, 128)}


def test_a_range_draws_between_its_ends(record):
    heights = {size[0] for size, _ in outcomes(record, MIN_SIZE_TRAIN=[40, 44], MIN_SIZE_TRAIN_SAMPLING="range")}
    assert heights == {40, 41, 42, 43, 44}


def test_the_long_side_is_limited(record):
    assert {size for size, _ in outcomes(record, MIN_SIZE_TRAIN=[96], MAX_SIZE_TRAIN=100)} == {(75, 100)}


@pytest.mark.parametrize(("flip", "places"), [("horizontal", {8.0, 32.0}), ("none", {8.0})])
def test_a_horizontal_flip_is_drawn_half_of_the_time(record, flip, places):
    assert {box[0] for _, box in outcomes(record, MIN_SIZE_TRAIN=[48], RANDOM_FLIP=flip)} == places


def test_testing_changes_nothing(record):
    image, target, _ = mapper(training=False)(record)
    assert (tuple(image.shape), target["boxes"].tolist()) == ((3, HEIGHT, WIDTH), [[8, 12, 32, 28]])


def test_samples_are_plain_tensors(record):
    image, target, _ = mapper(masks=True)(record)
    assert {type(x) for x in (image, *target.values())} == {torch.Tensor}


def test_the_image_is_uint8_and_labels_start_at_0(record):
    image, target, _ = mapper()(record)
    assert (image.dtype, target["labels"].tolist()) == (torch.uint8, [1])


def test_bgr_reverses_the_channels(record):
    Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(record["file_name"])
    assert mapper(FORMAT="BGR")(record)[0][:, 0, 0].tolist() == [30, 20, 10]


def test_rgb_keeps_the_channels(record):
    Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(record["file_name"])
    assert mapper()(record)[0][:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_color_modes_become_three_channels(record, mode):
    Image.new(mode, (WIDTH, HEIGHT)).save(record["file_name"])
    assert mapper(training=False)(record)[0].shape[0] == 3


def test_crowd_is_left_out(record):
    crowd = record["annotations"][0] | {"iscrowd": 1}
    assert len(mapper()(record | {"annotations": [crowd]})[1]["boxes"]) == 0


def test_an_image_without_boxes_has_empty_targets(record):
    target = mapper(masks=True)(record | {"annotations": []})[1]
    assert (target["boxes"].shape, target["labels"].shape, target["masks"].shape[0]) == ((0, 4), (0,), 0)


def test_a_sliver_that_float32_flattens_is_left_out(record):
    sliver = record["annotations"][0] | {"bbox": [40.0, 12.0, 1e-9, 16.0]}
    target = mapper(masks=True)(record | {"annotations": [sliver, *record["annotations"]]})[1]
    assert [len(x) for x in target.values()] == [1, 1, 1]


def test_an_object_whose_mask_a_smaller_image_loses_is_left_out(record):
    dot = record["annotations"][0] | {
        "bbox": [40.0, 13.0, 1.0, 1.0],
        "segmentation": [[40, 13, 41, 13, 41, 14, 40, 14]],
    }
    crowded = record | {"annotations": [dot, *record["annotations"]]}
    left = {
        side: [len(x) for x in mapper(masks=True, MIN_SIZE_TRAIN=[side], RANDOM_FLIP="none")(crowded)[1].values()]
        for side in (HEIGHT, HEIGHT // 3)
    }
    assert left == {HEIGHT: [2, 2, 2], HEIGHT // 3: [1, 1, 1]}
    boxes_alone = mapper(MIN_SIZE_TRAIN=[HEIGHT // 3], RANDOM_FLIP="none")(crowded)[1]
    assert len(boxes_alone["boxes"]) == 2


def test_a_cameras_orientation_mark_is_obeyed(record, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    stored = np.arange(HEIGHT * WIDTH, dtype=np.uint32).astype(np.uint8).reshape(WIDTH, HEIGHT)
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    image, _, _ = mapper(training=False)(record | {"file_name": str(tmp_path / "turned.png")})
    assert image[0].tolist() == np.rot90(stored, -1).tolist()


def test_16_bits_are_scaled_by_the_pixel_range(record, tmp_path):
    ramp = np.array([0, 1000, 2048, 4095, 60000], dtype="<u2")
    Image.frombytes("I;16", (5, 1), ramp.tobytes()).save(tmp_path / "ramp.png")
    deep = {"file_name": str(tmp_path / "ramp.png"), "height": 1, "width": 5, "annotations": []}
    image, _, _ = mapper(training=False, PIXEL_RANGE=[0, 4095])(deep)
    assert image.tolist() == [[[0, 62, 128, 255, 255]]] * 3
    with pytest.raises(DataError, match=r"ramp.png: .* more than 8 bits \(mode I;16\); set INPUT.PIXEL_RANGE"):
        mapped(mapper(), deep)


def test_an_image_of_another_size_than_its_record_is_refused(record):
    text = r"a.png: recorded as 65 x 48 pixels, the picture has 64 x 48$"
    with pytest.raises(DataError, match=text):
        mapped(mapper(), record | {"width": 65})


def test_a_truncated_image_is_refused_by_name(record):
    with open(record["file_name"], "r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match="a.png: not a readable image: "):
        mapped(mapper(), record)


def test_an_object_without_a_mask_trains_boxes_alone(record):
    del record["annotations"][0]["segmentation"]
    assert len(mapper(masks=True)(record)[1]["boxes"]) == 0
    assert len(mapper(masks=False)(record)[1]["boxes"]) == 1


def test_every_form_of_segmentation_gives_the_same_mask(record):
    polygon = record["annotations"][0]["segmentation"]
    packed = coco_mask.merge(coco_mask.frPyObjects(polygon, HEIGHT, WIDTH))
    text = packed | {"counts": packed["counts"].decode()}
    masks = []
    for form in (polygon, packed, text):
        record["annotations"][0]["segmentation"] = form
        masks.append(mapper(training=False, masks=True)(record)[1]["masks"])
    assert all(torch.equal(mask, masks[0]) for mask in masks) and masks[0].sum() == BOX[2] * BOX[3]


def test_a_batch_keeps_boxes_for_the_host(record):
    batch = collate([mapper()(record)])
    moved = batch.to(torch.device("meta"))
    assert (moved.targets[0]["boxes"].device.type, moved.boxes[0].device.type) == ("meta", "cpu")


def test_no_size_is_refused():
    with pytest.raises(ConfigError, match=r"^INPUT.MIN_SIZE_TRAIN is empty, expected a list of sizes such as \[800\]"):
        mapper(MIN_SIZE_TRAIN=[])
