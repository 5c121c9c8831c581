"""Pixel-wise distillation of segmentation scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from ..helpers import whole
from torch import Tensor
from ..helpers.whole import random_map, batch_info, spec, value

from kd2.distill import ConfigError, BatchInfo
from kd2.losses.pixelwise import Pixelwise, labeled

STUDENT, TEACHER = random_map(2, 6, 8, 12), random_map(2, 6, 8, 12, seed=1)


def loss(student: Tensor = STUDENT, teacher: Tensor = TEACHER, a_scene: BatchInfo | None = None, **options) -> Tensor:
    return value(Pixelwise(spec(), spec(), **options), student, teacher, a_scene)


def gradient(**options) -> Tensor:
    student = STUDENT.clone().requires_grad_()
    loss(student, **options).backward()
    return student.grad


def labels(ignored: tuple = ()) -> Tensor:
    """Labels of two 64 x 96 images, without those of the cells of 8 pixels at ``ignored``, an index of (N, 8, 12)."""
    cells = torch.zeros(2, 8, 12, dtype=torch.int64)
    cells[ignored] = 255
    return cells.repeat_interleave(8, 1).repeat_interleave(8, 2)


# The loss.


def test_it_is_the_divergence_over_classes_averaged_over_pixels():
    # Teacher (1/2, 1/2), student (3/4, 1/4): KL = ln 2 - (ln 3) / 2; the second pixel agrees.
    student = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log().T.reshape(1, 2, 1, 2)
    criterion = Pixelwise(spec(2, (1, 2)), spec(2, (1, 2)))
    assert value(criterion, student, torch.zeros(1, 2, 1, 2)).item() == pytest.approx(0.143841 / 2, rel=1e-5)


def test_equal_maps_give_an_exact_zero_without_gradient():
    student = TEACHER.clone().requires_grad_()
    found = loss(student)
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_value_and_gradient_are_those_of_the_formula(temperature):
    student = STUDENT.double().requires_grad_()
    s, t = ((x / temperature).log_softmax(1) for x in (student, TEACHER.double()))
    expected = temperature**2 * (t.exp() * (t - s)).sum(1).mean()
    torch.testing.assert_close(loss(temperature=temperature).double(), expected)
    wanted = torch.autograd.grad(expected, student)[0]
    torch.testing.assert_close(gradient(temperature=temperature).double(), wanted, rtol=1e-4, atol=1e-9)


def test_cross_entropy_adds_the_entropy_of_the_teacher_and_keeps_the_gradient():
    entropy = -(TEACHER.softmax(1) * TEACHER.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(divergence="cross_entropy"), loss() + entropy)
    torch.testing.assert_close(gradient(divergence="cross_entropy"), gradient())


@pytest.mark.parametrize(("reduction", "factor"), [("map", 2), ("elements", 1 / 6)])
def test_the_reduction_divides_by_less_or_more(reduction, factor):
    torch.testing.assert_close(loss(reduction=reduction), factor * loss())


def test_a_map_larger_than_a_block_is_seen_whole():
    student, teacher = random_map(2, 5, 150, 200).requires_grad_(), random_map(2, 5, 150, 200, seed=1)
    found = value(Pixelwise(spec(5, (150, 200)), spec(5, (150, 200))), student, teacher)
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="sum") / (2 * 150 * 200)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (found, expected)), rtol=1e-4, atol=1e-10)


def test_both_maps_are_enlarged_first():
    big = [F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=True) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(loss(enlarge=4), value(Pixelwise(spec(), spec()), *big))


def test_the_legacy_form_takes_runs_of_the_memory_for_classes():
    rows = [x.contiguous().view(-1, 6) for x in (STUDENT, TEACHER)]
    expected = F.kl_div(rows[0].log_softmax(1), rows[1].softmax(1), reduction="sum") / (2 * 8 * 12)
    torch.testing.assert_close(loss(legacy=True), expected)


def test_maps_are_added():
    criterion = Pixelwise(spec() * 2, spec() * 2)
    torch.testing.assert_close(criterion([STUDENT] * 2, [TEACHER] * 2, batch_info()), 2 * loss())


def test_scores_of_any_height_stay_finite():
    student = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    found = value(Pixelwise(spec(2, (1, 1)), spec(2, (1, 1))), student, -student.detach())
    found.backward()
    assert found.item() == 2e4
    assert student.grad.flatten().tolist() == [1, -1]


def test_an_empty_batch_gives_zero():
    assert loss(STUDENT[:0], TEACHER[:0], BatchInfo([], (64, 96))).item() == 0


# Pixels without a label.


def test_pixels_without_a_label_count_unless_they_are_skipped():
    other = STUDENT.clone()
    other[1, :, :3, 6:] += random_map(6, 3, 6, seed=2)
    masked = batch_info(labels=labels((1, slice(3), slice(6, None))))
    assert loss(other, a_scene=masked) != loss(a_scene=masked)
    assert loss(other, a_scene=masked, skip_ignored=True) == loss(a_scene=masked, skip_ignored=True)


def test_the_divisor_counts_the_pixels_with_a_label():
    first_image_only = batch_info(labels=labels((1,)))
    expected = value(Pixelwise(spec(), spec()), STUDENT[:1], TEACHER[:1])
    torch.testing.assert_close(loss(a_scene=first_image_only, skip_ignored=True), expected)


def test_skipped_pixels_get_no_gradient():
    slope = gradient(a_scene=batch_info(labels=labels((1,))), skip_ignored=True)
    assert slope[0].all()
    assert not slope[1].any()


def test_without_any_label_the_loss_is_an_exact_zero_with_a_graph():
    student = STUDENT.clone().requires_grad_()
    found = loss(student, a_scene=batch_info(labels=labels(...)), skip_ignored=True)
    found.backward()
    assert found.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_a_cell_takes_the_label_at_its_center():
    image = torch.full((1, 6, 9), 255)
    image[0, 3, 4] = 0
    assert labeled(batch_info(1, labels=image), (1, 1)).tolist() == [[True]]
    assert labeled(batch_info(1, labels=image), (2, 3)).tolist() == [[False] * 6]
    assert labeled(batch_info(1, labels=image), (6, 9)).nonzero().tolist() == [[0, 3 * 9 + 4]]


@pytest.mark.parametrize(
    ("found", "text"), [(None, "none"), (torch.zeros(2, dtype=torch.int64), r"labels of shape \(2,\)")]
)
def test_skipping_needs_labels_of_pixels(found, text):
    with pytest.raises(ConfigError, match=rf"SKIP_IGNORED needs labels of pixels, \(N, H, W\); this task has {text}"):
        loss(a_scene=batch_info(labels=found), skip_ignored=True)


# What is refused.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.0}, "TEMPERATURE is 0.0, expected a number above 0"),
        ({"temperature": math.nan}, "TEMPERATURE is nan"),
        ({"enlarge": 0}, "ENLARGE is 0, expected a whole number above 0"),
        ({"legacy": True, "skip_ignored": True}, "LEGACY and SKIP_IGNORED are both True"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        Pixelwise(spec(), spec(), **options)


def test_other_class_counts_are_refused():
    with pytest.raises(ConfigError, match="the student's logits have 5 classes, the teacher's 6"):
        Pixelwise(spec(5), spec(6))


# Every map, every precision, every device.


@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype):
    assert whole.low_precision_error(Pixelwise(spec(256, (40, 56)), spec(256, (40, 56))), (40, 56), dtype) < 0.01


@pytest.mark.parametrize("dtype", whole.LOW)
def test_half_precision_scores_give_a_float32_loss_and_their_own_gradient(dtype):
    student = STUDENT.to(dtype).requires_grad_()
    found = loss(student, TEACHER.to(dtype))
    found.backward()
    assert (found.dtype, student.grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(found, loss(), rtol=0.01, atol=0)
    torch.testing.assert_close(student.grad.float(), gradient(), rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("legacy", [False, True])
def test_strides_of_the_maps_do_not_matter(legacy):
    whole.same_for_any_strides(Pixelwise(spec(), spec(), legacy=legacy))


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(Pixelwise(spec(), spec()))
