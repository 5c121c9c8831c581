"""FGD's scale masks: from boxes to the weight of every cell."""

import pytest
import torch

from kd2.ops.scale_masks import scale_masks

# A map of 8 x 10 cells over an image of 64 x 80 pixels: 8 pixels a cell.
SIZE, IMAGE = (8, 10), (64, 80)
NONE = torch.zeros(0, 4)


def masks(*boxes: tuple[float, ...], frame: tuple[int, int] = IMAGE, image: tuple[int, int] = IMAGE):
    """Foreground and background (H, W) of one image."""
    found = scale_masks([torch.tensor(boxes).view(-1, 4)], [SIZE], [frame], [image])[0]
    return [mask[0] for mask in found]


def weights(*boxes: tuple[float, ...], **frames) -> dict[tuple[int, int], float]:
    """Foreground weight of every cell that has one."""
    foreground = masks(*boxes, **frames)[0]
    return {tuple(cell): foreground[tuple(cell)].item() for cell in foreground.nonzero().tolist()}


def cells(rows: range, columns: range, weight: float) -> dict[tuple[int, int], float]:
    return {(y, x): pytest.approx(weight) for y in rows for x in columns}


def test_a_box_is_one_cell_fatter_to_the_right_and_below():
    # x 10..20 is cells 1.25..2.5: columns 1 to 3; y 16..24 is cells 2..3: rows 2 to 3.
    assert weights((10, 16, 20, 24)) == cells(range(2, 4), range(1, 4), 1 / 6)


def test_the_smallest_box_wins():
    found = weights((0, 0, 40, 40), (8, 8, 16, 16))  # 6 x 6 and 2 x 2 cells
    assert found == cells(range(6), range(6), 1 / 36) | cells(range(1, 3), range(1, 3), 1 / 4)


def test_the_order_of_the_boxes_does_not_matter():
    boxes = [(0.0, 0, 40, 40), (8.0, 8, 16, 16), (30.0, 30, 60, 50)]
    assert weights(*boxes) == weights(*reversed(boxes))


def test_a_tiny_box_and_a_box_without_area_have_cells():
    assert weights((30.2, 17.1, 31, 17.9)) == cells(range(2, 4), range(3, 5), 1 / 4)
    assert weights((16, 16, 16, 16)) == cells(range(2, 3), range(2, 3), 1.0)


def test_the_area_of_a_box_at_the_border_counts_cells_beyond_the_map():
    assert weights((72, 56, 80, 64)) == cells(range(7, 8), range(9, 10), 1 / 4)


def test_a_box_across_the_border_is_cut_to_its_image():
    assert weights((-30, -5, 8, 8)) == weights((0, 0, 8, 8))
    assert weights((70, 50, 500, 90)) == weights((70, 50, 80, 64))


@pytest.mark.parametrize("box", [(-30, 5, -2, 20), (5, -30, 20, -2), (90, 5, 99, 20), (5, 70, 20, 90)])
def test_a_box_outside_its_image_has_no_cell(box):
    assert weights(box) == {}


def test_background_cells_share_one():
    foreground, background = masks((8, 8, 16, 16))
    assert torch.equal(background > 0, foreground == 0)
    assert background[0, 0].item() == pytest.approx(1 / 76)


def test_without_boxes_everything_is_background():
    foreground, background = masks()
    assert not foreground.any()
    assert torch.equal(background, torch.full(SIZE, 1 / 80))


def test_without_background_its_mask_is_zero():
    assert not masks((0, 0, 80, 64))[1].any()


def test_an_image_without_boxes_beside_one_with_boxes():
    found = scale_masks([NONE, torch.tensor([[8.0, 8, 16, 16]])], [SIZE], [IMAGE] * 2, [IMAGE] * 2)[0]
    for image, alone in enumerate((masks(), masks((8, 8, 16, 16)))):
        assert all(torch.equal(both[image], one) for both, one in zip(found, alone))


def test_the_frame_decides_how_many_pixels_a_cell_has():
    # Twice as many pixels over the same map: the box has half the extent.
    assert weights((16, 16, 32, 32), frame=(128, 160)) == weights((8, 8, 16, 16))


@pytest.mark.parametrize("count", [1, 30, 500, 2300])
def test_the_powers_equal_a_loop_over_boxes(count):
    draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(count))
    corner = draw[:, :2] * torch.tensor([80.0, 64.0])
    boxes = torch.cat([corner, corner + 40 * draw[:, 2:] ** 3], 1)
    expected = torch.zeros(SIZE)
    for box in boxes.clamp(max=torch.tensor([80.0, 64.0, 80.0, 64.0])) / 8:
        (left, top), (right, bottom) = box[:2].floor().int().tolist(), box[2:].ceil().int().tolist()
        weight = 1 / ((right - left + 1) * (bottom - top + 1))
        expected[top : bottom + 1, left : right + 1].clamp_(min=weight)
    assert torch.equal(masks(*boxes.tolist())[0], expected)


def test_levels_are_independent():
    boxes, sizes = [torch.tensor([[10.0, 16, 70, 60], [8, 8, 16, 16]])], [(8, 10), (4, 5), (1, 1)]
    together = scale_masks(boxes, sizes, [IMAGE], [IMAGE])
    for size, found in zip(sizes, together):
        assert all(torch.equal(a, b) for a, b in zip(found, scale_masks(boxes, [size], [IMAGE], [IMAGE])[0]))
