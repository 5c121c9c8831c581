"""Masks from boxes: the interval form against a dense IoU, and the cases where a careless form goes wrong."""

import random

import pytest
import torch

from kd2.distill import AnchorGrid
from kd2.ops.masks import anchor_masks, best_iou, box_masks, inside_image

# A 48 x 48 anchor at every cell of a 12 x 16 map of stride 16. The box equals the anchor of cell (2, 4): its IoU is 1
# there, 0.5 with the four neighbors (32 of 48 columns or rows shared: 2/3 over 4/3), 0.286 with the diagonal ones.
SQUARE = AnchorGrid(torch.tensor([[-16.0, -16, 32, 32]]), (16, 16), (12, 16))
ON_ANCHOR = torch.tensor([[48.0, 16, 96, 64]])


def dense_iou(boxes: torch.Tensor, grid: AnchorGrid, plus_one: bool) -> torch.Tensor:
    """The plain formula in float64: (M, H, W, K)."""
    a, b = grid.dense()[None], boxes.double()[:, None, None, None]
    one = float(plus_one)
    sides = [(x[..., 2] - x[..., 0] + one, x[..., 3] - x[..., 1] + one) for x in (a, b)]
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0]) + one
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1]) + one
    overlap = width.clamp(min=0) * height.clamp(min=0)
    return overlap / (sides[0][0] * sides[0][1] + sides[1][0] * sides[1][1] - overlap)


def dense_masks(boxes, grids, psi, level_rule, plus_one) -> list[torch.Tensor]:
    """The definition: some anchor's IoU with some box above psi times that box's best."""
    images = []
    for b in boxes:
        ious = [dense_iou(b, grid, plus_one) for grid in grids]
        best = [iou.amax((1, 2, 3), keepdim=True) for iou in ious]
        if level_rule == "joint":
            best = [torch.stack(best).amax(0)] * len(grids)
        images.append([(iou > psi * peak).any(3).any(0) for iou, peak in zip(ious, best)])
    return [torch.stack(level) for level in zip(*images)]


def random_scene(seed: int) -> tuple[list[torch.Tensor], list[AnchorGrid]]:
    """Three levels with different K; three images, one without boxes; boxes of 1 to 1000 pixels, some off the map."""
    draw = torch.Generator().manual_seed(seed)
    grids = []
    for shapes, stride, size in ((3, 8, (12, 17)), (1, 16, (6, 9)), (5, 33, (3, 4))):
        sides = stride * (1 + 4 * torch.rand(shapes, 2, generator=draw, dtype=torch.float64))
        center = stride * torch.rand(shapes, 2, generator=draw, dtype=torch.float64)
        grids.append(AnchorGrid(torch.cat([center - sides / 2, center + sides / 2], 1), (stride, stride * 1.1), size))
    boxes = []
    for count in (4, 0, 3):
        corner = 260 * torch.rand(count, 2, generator=draw) - 60
        boxes.append(torch.cat([corner, corner + 10 ** (3 * torch.rand(count, 2, generator=draw))], 1))
    return boxes, grids


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("level_rule", ["joint", "per_level"])
@pytest.mark.parametrize("seed", range(12))
def test_interval_masks_equal_a_dense_iou(seed, level_rule, plus_one):
    boxes, grids = random_scene(seed)
    for psi in (0.0, 0.99, random.Random(seed).random()):
        found = anchor_masks(boxes, grids, psi, level_rule, plus_one)
        expected = dense_masks(boxes, grids, psi, level_rule, plus_one)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("plus_one", [False, True])
def test_best_ious_equal_a_dense_iou(plus_one):
    boxes, grids = random_scene(100)
    expected = torch.stack([dense_iou(torch.cat(boxes), grid, plus_one).amax((1, 2, 3)) for grid in grids], 1)
    torch.testing.assert_close(best_iou(boxes, grids, plus_one), expected, rtol=1e-12, atol=0)


def test_ties_with_the_threshold_stay_out():
    assert anchor_masks([ON_ANCHOR], [SQUARE], psi=0.5)[0].nonzero().tolist() == [[0, 2, 4]]


def test_just_below_the_tie_the_four_neighbors_come_in():
    assert anchor_masks([ON_ANCHOR], [SQUARE], psi=0.499)[0].nonzero().tolist() == [
        [0, 1, 4], [0, 2, 3], [0, 2, 4], [0, 2, 5], [0, 3, 4],
    ]  # fmt: skip


def test_psi_one_keeps_nothing():
    assert not anchor_masks([ON_ANCHOR], [SQUARE], psi=1.0)[0].any()


def test_psi_zero_keeps_the_cells_whose_anchors_overlap_a_box():
    found = anchor_masks([torch.tensor([[0.0, 0, 1, 1]])], [SQUARE], psi=0.0)[0]
    assert found.nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("psi", [0.0, 0.5])
@pytest.mark.parametrize(
    "box",
    [[900.0, 900, 950, 950], [-90.0, 20, -40, 60], [48.0, 16, 48, 64], [48.0, 16, 96, 16]],
    ids=["off the map", "left of every anchor", "no width", "no height"],
)
def test_a_box_that_overlaps_no_anchor_marks_nothing(box, psi):
    assert not anchor_masks([torch.tensor([box])], [SQUARE], psi)[0].any()


def test_a_box_off_the_map_does_not_disturb_the_others():
    both = torch.cat([ON_ANCHOR, torch.tensor([[900.0, 900, 950, 950]])])
    assert torch.equal(anchor_masks([both], [SQUARE])[0], anchor_masks([ON_ANCHOR], [SQUARE])[0])


def test_an_image_without_boxes_has_an_empty_mask_beside_one_with_boxes():
    found = anchor_masks([torch.zeros(0, 4), ON_ANCHOR], [SQUARE])[0]
    assert found.flatten(1).sum(1).tolist() == [0, 1]


def test_a_batch_without_boxes_has_empty_masks_of_the_right_shape():
    found = anchor_masks([torch.zeros(0, 4)] * 2, [SQUARE])[0]
    assert (found.shape, found.any().item()) == ((2, 12, 16), False)


def test_the_joint_rule_leaves_a_level_with_poor_anchors_empty():
    coarse = AnchorGrid(torch.tensor([[-200.0, -200, 200, 200]]), (64, 64), (3, 4))
    assert [m.sum().item() for m in anchor_masks([ON_ANCHOR], [SQUARE, coarse], level_rule="joint")] == [1, 0]


def test_the_per_level_rule_marks_a_level_with_poor_anchors():
    coarse = AnchorGrid(torch.tensor([[-200.0, -200, 200, 200]]), (64, 64), (3, 4))
    assert anchor_masks([ON_ANCHOR], [SQUARE, coarse], level_rule="per_level")[1].sum() > 0


def test_fractional_strides_are_exact_far_from_the_origin():
    grid = AnchorGrid(torch.tensor([[0.0, 0, 1, 1]]), (1, 1.1), (1, 1200))
    box = torch.tensor([[1099.5, 0, 1100.000001, 1]], dtype=torch.float64)
    # The anchor of column 1000 begins at 1100; with a stride in single precision it would begin past the box.
    assert anchor_masks([box], [grid], psi=0.0)[0].nonzero().tolist() == [[0, 0, 999], [0, 0, 1000]]


# Boxes as masks. The map is 3 x 4 cells of 10 x 10 pixels.


def cells(*box: float) -> list[list[int]]:
    return box_masks([torch.tensor([box])], [(3, 4)], [(10, 10)])[0][0].nonzero().tolist()


def test_a_box_marks_the_cells_it_touches():
    assert cells(5, 10, 20, 21) == [[1, 0], [1, 1], [2, 0], [2, 1]]


def test_a_tiny_box_marks_one_cell():
    assert cells(12, 12, 12.1, 12.1) == [[1, 1]]


def test_a_box_is_cut_to_the_map():
    assert cells(-50, -50, 5, 500) == [[0, 0], [1, 0], [2, 0]]


@pytest.mark.parametrize("box", [(5, 5, 5, 25), (5, 5, 25, 5), (40, 0, 60, 20), (-30, 0, 0, 20)])
def test_a_box_without_area_or_off_the_map_marks_no_cell(box):
    assert cells(*box) == []


def test_boxes_of_one_image_leave_the_others_alone():
    found = box_masks([torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10]])], [(3, 4)], [(10, 10)])[0]
    assert found.nonzero().tolist() == [[1, 0, 0]]


def test_overlapping_boxes_are_one_region():
    found = box_masks([torch.tensor([[0.0, 0, 20, 10], [10, 0, 30, 10]])], [(3, 4)], [(10, 10)])[0]
    assert found.nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


def test_cells_whose_center_lies_in_the_padding_are_outside():
    found = inside_image((2, 3), (10, 10), [(20, 30), (14, 16)])
    assert found.tolist() == [[[True] * 3] * 2, [[True, True, False], [False] * 3]]
