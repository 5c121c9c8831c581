"""Dense prediction distillation: its values, which anchors count, what it divides by."""

import math

import pytest
import torch

from kd2.distill import AnchorGrid, BatchInfo, BoxCoder, BoxCoding, ConfigError, FeatureSpec
from kd2.losses import check_losses
from kd2.losses.dense_kd import DenseKd, score_divergences

# Two anchors a cell, three classes, 2 x 2 cells of 8 pixels.
BASES = torch.tensor([[-4.0, -4, 4, 4], [-8, -4, 8, 4]])
SCORES, BOXES = FeatureSpec(6, (2, 2), (8.0, 8.0)), FeatureSpec(8, (2, 2), (8.0, 8.0))
LOW = -20.0


def info(sizes: list[tuple[int, int]], boxes: list | None = None) -> BatchInfo:
    def grids(wanted: list) -> list[AnchorGrid]:
        return [AnchorGrid(BASES, (8, 8), size) for size in wanted]

    coder = BoxCoder("deltas")
    return BatchInfo(sizes, (16, 16), boxes or [], anchors=grids, coding=BoxCoding(grids, coder, coder, classes=3))


def scores(*at: tuple[int, int, int, float]) -> torch.Tensor:
    """Scores (1, 6, 2, 2) near 0 but for (channel, row, column, score before the sigmoid)."""
    x = torch.full((1, 6, 2, 2), LOW)
    for channel, row, column, score in at:
        x[0, channel, row, column] = score
    return x


def loss(student: torch.Tensor, teacher: torch.Tensor, batch_info: BatchInfo, **options) -> torch.Tensor:
    return DenseKd([SCORES], [SCORES], **options)([student], [teacher], batch_info)


def test_one_anchor_costs_the_entropy_times_the_distance_over_at_least_one():
    # q = 1/2, p = 1/4: BCE = -(log(1/4) + log(3/4)) / 2, times 1/4.
    student, teacher = scores((0, 0, 0, math.log(1 / 3))), scores((0, 0, 0, 0.0))
    expected = -(math.log(0.25) + math.log(0.75)) / 2 * 0.25
    assert loss(student, teacher, info([(16, 16)])).item() == pytest.approx(expected, rel=1e-5)


def test_the_sum_is_over_the_teachers_best_scores_above_a_twentieth():
    # Four anchors of 1/2 and one of 0.04: the normalizer is 2.
    sure = [
        (0, 0, 0, 0.0),
        (1, 0, 0, -1.0),
        (3, 0, 0, 0.0),
        (0, 1, 1, 0.0),
        (5, 1, 1, 0.0),
        (0, 0, 1, math.log(1 / 24)),
    ]
    student, teacher = torch.zeros(1, 6, 2, 2), scores(*sure)
    total = score_divergences(student, teacher).sum()
    assert loss(student, teacher, info([(16, 16)])).item() == pytest.approx(total.item() / 2, rel=1e-5)


def test_anchors_over_padding_do_not_count():
    student, teacher = scores(), scores((0, 0, 1, 5.0), (0, 0, 0, 0.0))
    narrow, inside = info([(16, 8)]), scores((0, 0, 0, 0.0))
    assert loss(student, teacher, narrow).item() == pytest.approx(loss(student, inside, info([(16, 16)])).item())


def test_with_teacher_only_anchors_that_it_is_confident_of_count():
    student, teacher = torch.zeros(1, 6, 2, 2), scores((4, 1, 0, 2.0))
    expected = score_divergences(student, teacher)[0, 3:, 1, 0].sum()
    assert loss(student, teacher, info([(16, 16)]), positions="teacher").item() == pytest.approx(expected.item())


@pytest.mark.parametrize("positions", ["mask", "gt_box"])
def test_with_a_mask_the_anchors_of_cells_near_objects_count(positions):
    student, teacher = torch.zeros(1, 6, 2, 2), scores((0, 0, 0, 3.0))
    found = loss(student, teacher, info([(16, 16)], [torch.tensor([[8.0, 8, 16, 16]])]), positions=positions, psi=0.9)
    counted = {"gt_box": [(1, 1)], "mask": [(1, 1)]}[positions]
    expected = sum(score_divergences(student, teacher)[0, :, i, j].sum() for i, j in counted)
    assert found.item() == pytest.approx(expected.item())


def test_an_image_without_boxes_gives_a_masked_loss_of_0_that_keeps_the_graph():
    student = torch.zeros(1, 6, 2, 2, requires_grad=True)
    found = loss(student, scores(), info([(16, 16)]), positions="gt_box")
    found.backward()
    assert found == 0 and student.grad.abs().max() == 0


def test_boxes_count_by_how_far_the_scores_are_apart():
    student, teacher = torch.zeros(1, 6, 2, 2), scores((0, 0, 0, 0.0))
    moved = torch.zeros(1, 8, 2, 2)
    moved[0, 0, 0, 0] = 1.0  # the first anchor of the first cell moves by its width: GIoU 0 - 0
    module = DenseKd([SCORES, BOXES], [SCORES, BOXES], box="giou", box_weight=3.0)
    found = module([student, moved], [teacher, torch.zeros(1, 8, 2, 2)], info([(16, 16)]))
    assert module.parts == ("classes", "boxes")
    # The weight is |0 - 1/2| of the other two classes.
    assert found["boxes"].item() == pytest.approx(3.0 * 0.5)


def test_no_gradient_of_the_boxes_reaches_the_scores():
    student, boxes = torch.zeros(1, 6, 2, 2, requires_grad=True), torch.ones(1, 8, 2, 2, requires_grad=True)
    module = DenseKd([SCORES, BOXES], [SCORES, BOXES], box="giou")
    found = module([student, boxes], [scores(), torch.zeros(1, 8, 2, 2)], info([(16, 16)]))
    assert torch.autograd.grad(found["boxes"], [student, boxes], allow_unused=True)[0] is None


def test_half_precision_is_computed_in_float32():
    student, teacher = (torch.randn(1, 6, 2, 2, generator=torch.Generator().manual_seed(i)).half() for i in (0, 1))
    found = loss(student, teacher, info([(16, 16)]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(student.float(), teacher.float(), info([(16, 16)])))


def test_boxes_on_the_tap_that_nobody_reads_are_refused():
    with pytest.raises(ConfigError, match="BOX is none, the tap has every level twice, expected the scores alone"):
        DenseKd([SCORES, BOXES], [SCORES, BOXES])


def test_maps_of_boxes_are_no_scores():
    maps = [torch.zeros(1, 8, 2, 2)]
    with pytest.raises(ConfigError, match="a map of scores has 8 channels, expected 2 anchors x 3 classes a cell"):
        DenseKd([BOXES], [BOXES])(maps, maps, info([(16, 16)]))


def test_maps_that_are_no_boxes_are_refused():
    module = DenseKd([SCORES, SCORES], [SCORES, SCORES], box="giou")
    maps = [torch.zeros(1, 6, 2, 2)] * 2
    with pytest.raises(ConfigError, match="a map of boxes has 6 channels, expected 4 for each of 2 anchors"):
        module(maps, maps, info([(16, 16)]))


def test_a_teacher_that_pads_otherwise_is_refused():
    with pytest.raises(
        ConfigError, match=r"a map has \(2, 2\) cells in the student and \(4, 4\) in the teacher, which pads"
    ):
        loss(scores(), torch.zeros(1, 6, 4, 4), info([(16, 16)]))


def test_heads_of_other_strides_are_refused():
    with pytest.raises(ConfigError, match="level 0 has .* they are compared cell by cell"):
        DenseKd([SCORES], [FeatureSpec(6, (4, 4), (4.0, 4.0))])


def test_a_power_between_0_and_1_is_refused():
    with pytest.raises(ConfigError, match="KD.LOSSES.dense_kd: BETA is 0.5, expected 0 or at least 1"):
        check_losses({"dense_kd": {"BETA": 0.5}})
