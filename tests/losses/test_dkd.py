"""Decoupled knowledge distillation."""

import pytest
import torch
from torch import Tensor

from kd2.distill import BatchInfo, ConfigError, FeatureSpec, Schedule
from kd2.losses.dkd import Dkd, decoupled
from kd2.losses.kl import divergences

from ..helpers import whole
from ..helpers.whole import random_map

LABELS = torch.tensor([0, 5, 2, 2])


def specs(classes: int = 6, size: tuple[int, int] = (1, 1)) -> list[FeatureSpec]:
    return [FeatureSpec(classes, size, (1.0, 1.0))]


def parts(student: Tensor, teacher: Tensor, labels: Tensor | None = LABELS, **options) -> dict[str, Tensor]:
    """The loss's parts for logits (N, K)."""
    loss = Dkd(specs(student.shape[1]), specs(student.shape[1]), **options)
    batch_info = BatchInfo([(8, 8)] * len(student), (8, 8), labels=labels)
    return loss([student[:, :, None, None]], [teacher[:, :, None, None]], batch_info)


def test_the_true_class_is_compared_with_all_others_together():
    # Teacher (1/2 | 1/4, 1/4), student (3/4 | 1/8, 1/8): the split is that of two classes, the others agree.
    student, teacher = torch.tensor([[6.0, 1, 1]]).log(), torch.tensor([[2.0, 1, 1]]).log()
    target, others = decoupled(student, teacher, torch.tensor([0]))
    assert (target.item(), others.item()) == pytest.approx((0.143841, 0.0), abs=1e-6)


def test_the_others_are_compared_among_themselves():
    student, teacher = torch.tensor([[8.0, 3, 1]]).log(), torch.tensor([[4.0, 1, 1]]).log()
    target, others = decoupled(student, teacher, torch.tensor([0]))
    assert (target.item(), others.item()) == pytest.approx((0.0, 0.143841), abs=1e-6)


def test_with_the_teachers_doubt_as_weight_both_parts_make_the_whole_divergence():
    student, teacher = random_map(1, 6).double(), random_map(1, 6, seed=1).double()
    target, others = decoupled(student, teacher, torch.tensor([3]), 2.0)
    doubt = 1 - (teacher / 2).softmax(1)[0, 3]
    torch.testing.assert_close(target + doubt * others, divergences(student, teacher, 2.0)[0])


def test_alpha_and_beta_weigh_the_parts():
    student, teacher = random_map(4, 6), random_map(4, 6, seed=1)
    target, others = decoupled(student, teacher, LABELS, 4.0)
    found = parts(student, teacher, alpha=0.5, beta=6.0)
    torch.testing.assert_close(found, {"target": 0.5 * target, "others": 6 * others})


def test_two_classes_have_no_others_to_compare():
    student = random_map(4, 2).requires_grad_()
    found = parts(student, random_map(4, 2, seed=1), torch.tensor([0, 1, 1, 0]))
    found["others"].backward()
    assert (found["others"].item(), student.grad.abs().max().item()) == (0.0, 0.0)


@pytest.mark.parametrize("label", [-1, 6, 255])
def test_an_image_without_a_class_does_not_count(label):
    student, teacher = random_map(4, 6), random_map(4, 6, seed=1)
    found = parts(student, teacher, torch.tensor([0, 5, label, 2]))
    rest = [0, 1, 3]
    torch.testing.assert_close(found, parts(student[rest], teacher[rest], torch.tensor([0, 5, 2])))


def test_a_batch_without_any_class_costs_nothing():
    found = parts(random_map(4, 6), random_map(4, 6, seed=1), torch.full((4,), -1))
    assert sum(found.values()).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_student_as_sure_as_its_type_allows_has_finite_loss_and_gradient(dtype):
    student = torch.zeros(4, 6, dtype=dtype)
    student[:, 2] = 3e4
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sum(parts(student, random_map(4, 6, seed=1).to(dtype), temperature=1.0).values())
    found.backward()
    assert found.dtype == torch.float32
    assert found.isfinite() and student.grad.isfinite().all()


def test_it_never_waits_for_the_device():
    student, teacher = random_map(4, 6).requires_grad_(), random_map(4, 6, seed=1)
    operations = whole.operations_of(lambda: sum(parts(student, teacher).values()).backward())
    assert operations and "aten::_local_scalar_dense" not in operations


# The warm-up: the authors' stairs min(epoch / W, 1) and the line of the schedule.


def test_with_one_iteration_an_epoch_the_ramp_is_the_authors_warm_up():
    line = Schedule(1.0, ramp=20 - 1)
    assert [line.at(epoch - 1) for epoch in range(1, 31)] == pytest.approx(
        [min(epoch / 20, 1) for epoch in range(1, 31)]
    )


def test_the_ramp_has_the_sum_of_the_authors_stairs_and_stays_within_one_step():
    steps = 391
    line = Schedule(1.0, ramp=(20 - 1) * steps)
    pairs = [(line.at(i), min((i // steps + 1) / 20, 1)) for i in range(21 * steps)]
    assert max(abs(a - b) for a, b in pairs) < 1 / 20
    assert sum(a for a, _ in pairs) == pytest.approx(sum(b for _, b in pairs), rel=1e-3)


# What is refused.


def test_a_batch_without_labels_is_refused():
    with pytest.raises(ConfigError, match="DKD needs labels, this batch has none; TYPE: logits works without"):
        parts(random_map(4, 6), random_map(4, 6), None)


def test_labels_of_mixed_images_are_refused():
    text = r"one class for each image, found labels \(4, 6\) of torch.float32; .* a view mode without mixup"
    with pytest.raises(ConfigError, match=text):
        parts(random_map(4, 6), random_map(4, 6), torch.rand(4, 6))


def test_maps_of_pixels_are_refused():
    with pytest.raises(ConfigError, match=r"DKD takes a classifier's logits \(N, K\), found maps of \(8, 12\)"):
        Dkd(specs(6, (8, 12)), specs(6, (8, 12)))


def test_one_class_is_refused():
    with pytest.raises(ConfigError, match="DKD needs at least two classes, found one"):
        Dkd(specs(1), specs(1))


def test_other_class_counts_are_refused():
    with pytest.raises(ConfigError, match="the student's logits have 10 classes, the teacher's 100"):
        Dkd(specs(10), specs(100))


def test_it_needs_labels():
    loss = Dkd(specs(), specs())
    assert (loss.needs, loss.parts) == ({"labels"}, ("target", "others"))
