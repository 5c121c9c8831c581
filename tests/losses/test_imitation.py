"""The imitation loss: its loss, its modes, its adapters."""

import pytest
import torch

from kd2.distill import AnchorGrid, BatchInfo, ConfigError, FeatureSpec
from kd2.losses.imitation import (
    Imitation,
    imitation_loss,
    imitation_mask,
    retinanet_shapes,
)

BOX = torch.tensor([[8.0, 8, 24, 16]])


def spec(channels: int = 3, height: int = 4, width: int = 6, stride: float = 8) -> list[FeatureSpec]:
    return [FeatureSpec(channels, (height, width), (stride, stride))]


def maps(channels: int = 3, height: int = 4, width: int = 6) -> list[torch.Tensor]:
    return [torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(channels))]


def batch_info(*boxes: torch.Tensor, size: tuple[int, int] = (32, 48)) -> BatchInfo:
    def anchors(sizes):
        return [AnchorGrid(torch.tensor([[0.0, 0, 8, 8]]), (8, 8), s) for s in sizes]

    return BatchInfo([size] * len(boxes), (32, 48), list(boxes), anchors=anchors)


def mask(*cells: tuple[int, int]) -> torch.Tensor:
    found = torch.zeros(1, 4, 6, dtype=torch.bool)
    for y, x in cells:
        found[0, y, x] = True
    return found


def marked(loss_module: Imitation, info: BatchInfo) -> list[list[int]]:
    return loss_module.masks([(4, 6)], 1, info)[0][0].nonzero().tolist()


# The loss.


def test_the_loss_sums_channels_and_halves_the_mean_over_cells():
    student, teacher = torch.zeros(1, 3, 4, 6), torch.full((1, 3, 4, 6), 2.0)
    # Two cells of three channels, each off by 2: (2 * 3 * 4) / (2 * 2).
    assert imitation_loss([student], [teacher], [mask((0, 0), (3, 5))]).item() == 6.0


def test_level_mean_adds_the_loss_of_each_level():
    student, teacher = [torch.zeros(1, 1, 4, 6)] * 2, [torch.full((1, 1, 4, 6), v) for v in (2.0, 4.0)]
    masks = [mask((0, 0)), mask((0, 0), (0, 1), (0, 2))]
    assert imitation_loss(student, teacher, masks).item() == 4 / 2 + 48 / 6


def test_pooled_mean_divides_by_the_cells_of_all_levels():
    student, teacher = [torch.zeros(1, 1, 4, 6)] * 2, [torch.full((1, 1, 4, 6), v) for v in (2.0, 4.0)]
    masks = [mask((0, 0)), mask((0, 0), (0, 1), (0, 2))]
    assert imitation_loss(student, teacher, masks, "pooled_mean").item() == (4 + 48) / 8


def test_an_infinite_value_outside_the_mask_does_not_matter():
    student, teacher = maps()[0].requires_grad_(), maps()[0] + 1
    teacher[0, :, 0, 0] = float("inf")
    loss = imitation_loss([student], [teacher], [mask((1, 1))])
    loss.backward()
    assert loss.item() == pytest.approx(1.5)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["level_mean", "pooled_mean"])
def test_an_empty_mask_gives_an_exact_zero_with_zero_gradients(reduction):
    student = maps()[0].requires_grad_()
    loss = imitation_loss([student], maps(), [mask()], reduction)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


def test_half_precision_maps_give_a_float32_loss_without_overflow():
    teacher = torch.full((1, 3, 4, 6), 300.0, dtype=torch.float16)
    loss = imitation_loss([torch.zeros_like(teacher)], [teacher], [mask((0, 0))])
    assert (loss.dtype, loss.item()) == (torch.float32, 135000.0)


# Modes.


def test_anchor_mode_marks_cells_of_the_students_anchors():
    assert marked(Imitation(spec(), spec()), batch_info(BOX)) == [[1, 1], [1, 2]]


def test_box_mode_marks_the_cells_of_the_boxes():
    found = marked(Imitation(spec(), spec(), mode="gt_box"), batch_info(BOX + 2))
    assert found == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


def test_full_mode_marks_everything_without_boxes():
    assert len(marked(Imitation(spec(), spec(), mode="full"), batch_info(torch.zeros(0, 4)))) == 24


def test_psi_reaches_the_mask():
    wide = Imitation(spec(), spec(), psi=0.0)
    # The box of 16 x 8 shifted by 2 overlaps the anchors of six cells.
    assert len(marked(wide, batch_info(BOX + 2))) == 6


def test_level_rule_reaches_the_mask():
    fine, coarse = spec()[0], FeatureSpec(3, (2, 3), (16, 16))
    sides = ((8.0, fine), (64.0, coarse))
    grids = [AnchorGrid(torch.tensor([[0.0, 0, side, side]]), level.stride, level.size) for side, level in sides]
    info = BatchInfo([(32, 48)], (32, 48), [BOX], anchors=lambda sizes: grids)
    counts = {}
    for rule in ("joint", "per_level"):
        loss_module = Imitation([fine, coarse], [fine, coarse], level_rule=rule)
        counts[rule] = loss_module.masks([(4, 6), (2, 3)], 1, info)[1].any().item()
    assert counts == {"joint": False, "per_level": True}


def test_inclusive_coordinates_reach_the_mask():
    # Inclusive, the box is 1 x 1 pixel: it has an area and a best cell.
    point = batch_info(torch.tensor([[8.0, 8, 8, 8]]))
    found = {plus_one: len(marked(Imitation(spec(), spec(), plus_one=plus_one), point)) for plus_one in (False, True)}
    assert found == {False: 0, True: 4}


def test_clipping_leaves_cells_over_padding_out():
    info = batch_info(torch.zeros(0, 4), size=(16, 48))
    loss_module = Imitation(spec(), spec(), mode="full", clip_to_image=True)
    assert marked(loss_module, info) == [[y, x] for y in range(2) for x in range(6)]


def test_without_clipping_cells_over_padding_count():
    assert len(marked(Imitation(spec(), spec(), mode="full"), batch_info(torch.zeros(0, 4), size=(16, 48)))) == 24


def test_retinanet_anchors_serve_a_student_without_anchors():
    info = batch_info(torch.tensor([[0.0, 0, 32, 32]]))
    info.anchors = None
    # The 32 x 32 box is RetinaNet's smallest square at cell (2, 2), centered there.
    assert [2, 2] in marked(Imitation(spec(), spec(), anchors="retinanet"), info)


def test_a_student_without_anchors_is_told_what_to_use():
    info = batch_info(BOX)
    info.anchors = None
    with pytest.raises(ConfigError, match="this student has no anchors; use ANCHORS: retinanet or MODE: gt_box"):
        Imitation(spec(), spec()).masks([(4, 6)], 1, info)


def test_retinanet_anchors_have_three_areas_and_three_ratios():
    shapes = retinanet_shapes(8)
    width, height = shapes[:, 2] - shapes[:, 0], shapes[:, 3] - shapes[:, 1]
    side = torch.tensor([32.0, 40.3175, 50.7968]).repeat_interleave(3)
    torch.testing.assert_close((width * height).sqrt(), side)
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2]).repeat(3))
    assert torch.equal(shapes[:, :2], -shapes[:, 2:])


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, {"boxes", "anchors"}),
        ({"anchors": "retinanet"}, {"boxes"}),
        ({"mode": "gt_box"}, {"boxes"}),
        ({"mode": "full"}, set()),
        ({"mode": "full", "clip_to_image": True}, {"sizes"}),
    ],
)
def test_it_needs_of_a_batch_what_its_mask_is_made_of(options, needs):
    assert Imitation(spec(), spec(), **options).needs == needs


# The device.


@pytest.mark.parametrize("mode", ["anchors", "full", "gt_box"])
def test_with_boxes_on_the_host_the_loss_never_waits_for_the_device(mode):
    # The meta device has no values: whatever reads one back fails.
    loss_module = Imitation(spec(), spec(5), mode=mode).to("meta")
    student = [x.to("meta").requires_grad_() for x in maps()]
    loss_module(student, [x.to("meta") for x in maps(5)], batch_info(BOX)).backward()
    assert student[0].grad.device.type == "meta"


def test_no_gradient_reaches_the_boxes():
    boxes = BOX.clone().requires_grad_()
    student = maps()[0].requires_grad_()
    Imitation(spec(), spec(5))([student], maps(5), batch_info(boxes)).backward()
    assert boxes.grad is None


# The fast form against the formula.


def test_the_mask_is_that_of_the_formula():
    grid = AnchorGrid(torch.tensor([[0.0, 0, 8, 8], [-4, 0, 12, 8]]), (8, 8), (4, 6))
    info = BatchInfo(
        [(32, 48)], (32, 48), [torch.tensor([[3.0, 5, 27, 17], [30, 20, 37, 31]])], anchors=lambda _: [grid]
    )
    found = Imitation(spec(), spec(), psi=0.4).masks([(4, 6)], 1, info)[0][0]
    assert torch.equal(found, imitation_mask(info.boxes[0], [grid.dense()], psi=0.4)[0])


@pytest.mark.parametrize("reduction", ["level_mean", "pooled_mean"])
def test_value_and_gradient_are_those_of_the_formula(reduction):
    loss_module = Imitation(spec() * 2, spec() * 2, mode="gt_box", adapter="none", reduction=reduction)
    student, teacher = [x.requires_grad_() for x in (maps()[0], maps()[0].flip(2))], [maps()[0] + 1, maps()[0].flip(3)]
    info = batch_info(BOX + 2)
    expected = imitation_loss(student, teacher, loss_module.masks([(4, 6)] * 2, 1, info), reduction)
    found = loss_module(student, teacher, info)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(expected, student))
