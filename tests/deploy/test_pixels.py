import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kd2.deploy.formats import FORMATS, open_exported
from kd2.deploy.pixels import pasted, resized, shortest_side
from kd2.deploy.predictor import Facts, Predictor

SIZES = [(40, 53), (31, 41), (96, 128), (72, 80)]


class Resized(Predictor):
    """A student that gives back the pixels it sees, with a shorter side of 40."""

    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 3, 1), Facts("segmentation", "none", [], []), False)

    def found(self, images):
        return (shortest_side(images, 40, 1000),)


def exactly_resized(pixels, size, axis):
    """Along one axis in whole numbers: the shares of old pixels in new ones, their sum rounded, halves upward."""
    old = pixels.shape[axis]
    apart = np.abs((2 * np.arange(old) + 1) * size - (2 * np.arange(size)[:, None] + 1) * old)
    shares = np.maximum(2 * max(old, size) - apart, 0)
    total = np.tensordot(pixels.astype(np.int64), shares, (axis, 1))
    return np.moveaxis((2 * total + shares.sum(1)) // (2 * shares.sum(1)), -1, axis)


@pytest.mark.parametrize("size", SIZES)
def test_resized_pixels_are_exact(size):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 48, 64), dtype=np.uint8)
    wanted = exactly_resized(exactly_resized(pixels, size[1], 3), size[0], 2)
    np.testing.assert_array_equal(resized(torch.from_numpy(pixels), *size), wanted)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_resizes_to_the_very_pixels_of_pytorch(form, tmp_path):
    for name in FORMATS[form].packages:
        pytest.importorskip(name)
    model, path = Resized(), str(tmp_path / f"pixels{FORMATS[form].endings[0]}")
    FORMATS[form].write(model, torch.zeros(1, 3, 45, 60, dtype=torch.uint8), path)
    for size in [(60, 45), (27, 61), (120, 97), (101, 160)]:
        picture = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
        (theirs,) = open_exported(path).outputs(picture)
        np.testing.assert_array_equal(theirs, model.outputs(picture)[0])


@pytest.mark.parametrize("size", SIZES[:3])
def test_resized_pixels_are_pillows_but_for_single_roundings(size):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    ours = resized(torch.from_numpy(pixels).permute(2, 0, 1)[None], *size)[0].permute(1, 2, 0).numpy()
    apart = np.abs(ours - np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)))
    assert apart.max() <= 1 and (apart > 0).mean() < 0.05


def test_an_equal_size_changes_no_pixel():
    pixels = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
    assert torch.equal(resized(pixels, 4, 4), pixels.float())


@pytest.mark.parametrize(
    ("size", "wanted"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((100, 1000), (133, 1333))]
)
def test_the_shorter_side_decides_unless_the_other_becomes_too_long(size, wanted):
    assert shortest_side(torch.zeros(1, 1, *size, dtype=torch.uint8), 800, 1333).shape[2:] == wanted


def test_without_a_shorter_side_pictures_keep_their_size():
    assert shortest_side(torch.zeros(1, 3, 5, 7, dtype=torch.uint8), 0, 1333).shape == (1, 3, 5, 7)


def test_a_pasted_mask_is_read_between_the_centers_of_its_cells():
    masks, boxes = torch.rand(2, 7, 7), torch.tensor([[2.0, 3.0, 16.0, 17.5], [0.0, 0.0, 20.0, 9.0]])
    y, x = torch.arange(18) + 0.5, torch.arange(20) + 0.5
    places = [
        torch.stack(torch.meshgrid((x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1, indexing="xy"), 2)
        for x1, y1, x2, y2 in boxes
    ]
    wanted = F.grid_sample(masks[:, None], torch.stack(places), align_corners=False)[:, 0]
    torch.testing.assert_close(pasted(masks, boxes, 18, 20), wanted, atol=1e-5, rtol=0)
