import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kd2.deploy.pixels import pasted, resized, shortest_side


@pytest.mark.parametrize("size", [(40, 53), (31, 41), (96, 128)])
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
