"""Pictures on the road of Detectron2: what its mappers see is what kd2 reads everywhere."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from kd2.distill import DataError
from kd2.engine.detectron2.data.detection import PictureMapper
from kd2.engine.detectron2.data.semantic import SemanticMapper

STORED = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def detection(pixel_range=(), training=False, image_format="BGR"):
    return PictureMapper(training, pixel_range=pixel_range, augmentations=[], image_format=image_format)


def semantic(pixel_range=(), image_format="BGR"):
    return SemanticMapper([T.NoOpTransform()], image_format, pixel_range, None)


@pytest.fixture
def turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(STORED).save(tmp_path / "turned.tif", exif=exif)
    return {"file_name": str(tmp_path / "turned.tif"), "height": 8, "width": 6, "image_id": 0}


@pytest.mark.parametrize("mapper", [detection, semantic])
def test_a_turned_picture_arrives_upright_in_the_order_of_input_format(mapper, turned):
    upright = np.rot90(STORED, -1).transpose(2, 0, 1)
    assert mapper()(turned)["image"].tolist() == upright[::-1].tolist()
    assert mapper(image_format="RGB")(turned)["image"].tolist() == upright.tolist()


@pytest.mark.parametrize("mapper", [detection, semantic])
def test_16_bits_arrive_scaled_by_the_pixel_range_or_not_at_all(mapper, tmp_path):
    ramp = np.array([0, 1000, 2048, 4095, 60000], dtype="<u2")
    Image.frombytes("I;16", (5, 1), ramp.tobytes()).save(tmp_path / "ramp.png")
    record = {"file_name": str(tmp_path / "ramp.png"), "height": 1, "width": 5, "image_id": 0}
    assert mapper([0, 4095])(record)["image"].tolist() == [[[0, 62, 128, 255, 255]]] * 3
    with pytest.raises(DataError, match=r"ramp.png: .* more than 8 bits \(mode I;16\); set INPUT.PIXEL_RANGE"):
        mapper()(record)


@pytest.mark.parametrize("mapper", [detection, semantic])
def test_a_record_with_the_size_as_stored_is_refused_with_the_cause(mapper, turned):
    with pytest.raises(DataError, match=r"recorded as 8 x 6 pixels, the picture has 6 x 8; .* EXIF orientation \(6\)"):
        mapper()(turned | {"height": 6, "width": 8})


def test_boxes_lie_on_the_upright_picture(turned):
    annotation = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    sample = detection(training=True)(turned | {"annotations": [annotation]})
    assert sample["instances"].gt_boxes.tensor.tolist() == [[1, 2, 4, 6]]
    assert turned.keys() == {"file_name", "height", "width", "image_id"}


def test_gray_models_get_one_channel(turned):
    Image.new("L", (6, 8), 77).save(turned["file_name"])
    image = detection(image_format="L")(turned)["image"]
    assert tuple(image.shape) == (1, 8, 6) and image.unique().tolist() == [77]
