"""Distillation of class scores: of a classifier, of pixels, of where in the image a class is."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, ConfigError, FeatureSpec
from kd2.losses import build_losses, check_losses
from kd2.losses.kl import (
    KLDivergence,
    channel_divergences,
    cross_entropies,
    divergences,
    labeled,
)

from ..helpers import whole
from ..helpers.whole import batch_info, random_map, spec, value

STUDENT, TEACHER = random_map(2, 6, 8, 12), random_map(2, 6, 8, 12, seed=1)


def classifier(classes: int = 6) -> list[FeatureSpec]:
    return [FeatureSpec(classes, (1, 1), (1.0, 1.0))]


def of_logits(student: Tensor, teacher: Tensor, **options) -> Tensor:
    """The loss on a classifier's logits (N, K)."""
    loss = KLDivergence(classifier(student.shape[1]), classifier(student.shape[1]), **options)
    return loss([student[:, :, None, None]], [teacher[:, :, None, None]], BatchInfo([(8, 8)] * len(student), (8, 8)))


def of_maps(student: Tensor = STUDENT, teacher: Tensor = TEACHER, info: BatchInfo | None = None, **options) -> Tensor:
    """The loss on maps of six classes."""
    return value(KLDivergence(spec(), spec(), **options), student, teacher, info)


def gradient(**options) -> Tensor:
    student = STUDENT.clone().requires_grad_()
    of_maps(student, **options).backward()
    return student.grad


def labels(ignored: tuple = ()) -> Tensor:
    """Labels of two 64 x 96 images, without those of the cells of 8 pixels at ``ignored``, an index of (N, 8, 12)."""
    cells = torch.zeros(2, 8, 12, dtype=torch.int64)
    cells[ignored] = 255
    return cells.repeat_interleave(8, 1).repeat_interleave(8, 2)


# The formulas.


def test_the_divergence_is_of_the_student_from_the_teacher():
    # Teacher (1/2, 1/2), student (3/4, 1/4): KL = ln 2 - (ln 3) / 2; the other direction is 0.1308.
    assert divergences(torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)).item() == pytest.approx(0.143841)


def test_the_divergence_of_a_class_map_is_over_its_cells():
    # The first class: teacher (1/2, 1/2), student (3/4, 1/4); the second is equal.
    student = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log().view(1, 2, 1, 2)
    found = channel_divergences(student, torch.zeros(1, 2, 1, 2))
    torch.testing.assert_close(found, torch.tensor([[0.143841, 0.0]]), atol=1e-6, rtol=0)


def test_cross_entropy_is_the_divergence_and_the_entropy_of_the_teacher():
    entropy = -(TEACHER.softmax(1) * TEACHER.log_softmax(1)).sum(1)
    torch.testing.assert_close(cross_entropies(STUDENT, TEACHER), divergences(STUDENT, TEACHER) + entropy)


# The fast form against the formulas.


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({}, lambda s, t: divergences(s, t).mean()),
        ({"temperature": 3.0}, lambda s, t: divergences(s, t, 3.0).mean()),
        ({"divergence": "cross_entropy"}, lambda s, t: cross_entropies(s, t).mean()),
        ({"reduction": "map_mean"}, lambda s, t: divergences(s, t).sum() / (8 * 12)),
        ({"reduction": "mean"}, lambda s, t: divergences(s, t).mean() / 6),
        ({"softmax": "cells", "reduction": "channel_mean", "temperature": 4.0},
         lambda s, t: channel_divergences(s, t, 4.0).mean()),
        ({"softmax": "memory_runs"},
         lambda s, t: divergences(s.reshape(-1, 6), t.reshape(-1, 6)).mean()),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "formula",
)  # fmt: skip
def test_value_and_gradient_are_those_of_the_formula(options, formula):
    student = STUDENT.clone().requires_grad_()
    found, expected = of_maps(student, **options), formula(student, TEACHER)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("logits", {}),
        ("pixelwise", {}),
        ("channel_kd", {"softmax": "cells", "reduction": "channel_mean", "temperature": 4.0}),
    ],
)
def test_three_names_are_one_loss_with_other_defaults(name, options):
    modules, _ = build_losses({name: {"TAP": "a"}}, {"a": spec()}, {"a": spec()})
    assert value(modules[name], STUDENT, TEACHER) == of_maps(**options)


def test_a_map_larger_than_a_block_is_seen_whole():
    student, teacher = random_map(2, 5, 150, 200).requires_grad_(), random_map(2, 5, 150, 200, seed=1)
    found = value(KLDivergence(spec(5, (150, 200)), spec(5, (150, 200))), student, teacher)
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="sum") / (2 * 150 * 200)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (found, expected)), rtol=1e-4, atol=1e-10)


# The loss.


def test_images_are_averaged_and_classes_added():
    student, teacher = random_map(5, 6), random_map(5, 6, seed=1)
    torch.testing.assert_close(of_logits(student, teacher), divergences(student, teacher).mean())


def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient():
    student = TEACHER.clone().requires_grad_()
    found = of_maps(student)
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_loss_and_gradient(dtype):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, 3e4]], dtype=dtype, requires_grad=True)
    found = of_logits(student, torch.tensor([[-3e4, 3e4, 0.0], [3e4, 0.0, -3e4]], dtype=dtype))
    found.backward()
    assert found.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", whole.LOW)
def test_half_precision_logits_are_compared_in_float32(dtype):
    student, teacher = random_map(4, 1000).to(dtype), random_map(4, 1000, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = of_logits(student, teacher, temperature=4.0)
    assert found.dtype == torch.float32
    exact = of_logits(student.double(), teacher.double(), temperature=4.0)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


def test_both_maps_are_enlarged_first():
    big = [F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=True) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(of_maps(enlarge=4), value(KLDivergence(spec(), spec()), *big))


def test_a_smaller_student_map_is_resized_as_logits():
    student = random_map(2, 6, 4, 6)
    found = value(KLDivergence(spec(size=(4, 6), stride=16), spec(), resize="student"), student, TEACHER)
    torch.testing.assert_close(found, of_maps(F.interpolate(student, (8, 12), mode="bilinear")))


def test_maps_are_added():
    loss = KLDivergence(spec() * 2, spec() * 2)
    torch.testing.assert_close(loss([STUDENT] * 2, [TEACHER] * 2, batch_info()), 2 * of_maps())


def test_an_empty_batch_gives_zero():
    assert of_maps(STUDENT[:0], TEACHER[:0], BatchInfo([], (64, 96))).item() == 0


# Pixels that are left out.


def test_pixels_over_padding_count_by_default_and_not_on_request():
    padded = BatchInfo([(64, 48), (64, 96)], (64, 96))
    every = divergences(STUDENT, TEACHER)
    torch.testing.assert_close(of_maps(info=padded), every.mean())
    real = torch.cat([every[0, :, :6].flatten(), every[1].flatten()])
    torch.testing.assert_close(of_maps(info=padded, clip_to_image=True), real.mean())


def test_the_one_cell_of_a_classifier_is_never_clipped():
    student, teacher = random_map(2, 6), random_map(2, 6, seed=1)
    loss = KLDivergence(classifier(), classifier(), clip_to_image=True)
    found = loss([student[:, :, None, None]], [teacher[:, :, None, None]], BatchInfo([(1, 1), (8, 8)], (8, 8)))
    assert found == of_logits(student, teacher)


def test_padding_and_unlabeled_pixels_are_left_out_together():
    info = BatchInfo([(64, 48), (64, 96)], (64, 96), labels=labels((1, slice(4))))
    every = divergences(STUDENT, TEACHER)
    counted = torch.cat([every[0, :, :6].flatten(), every[1, 4:].flatten()])
    torch.testing.assert_close(of_maps(info=info, clip_to_image=True, skip_ignored=True), counted.mean())


def test_pixels_without_a_label_count_unless_they_are_skipped():
    other = STUDENT.clone()
    other[1, :, :3, 6:] += random_map(6, 3, 6, seed=2)
    masked = batch_info(labels=labels((1, slice(3), slice(6, None))))
    assert of_maps(other, info=masked) != of_maps(info=masked)
    assert of_maps(other, info=masked, skip_ignored=True) == of_maps(info=masked, skip_ignored=True)


def test_the_divisor_counts_the_pixels_with_a_label():
    first_image_only = batch_info(labels=labels((1,)))
    expected = of_maps(STUDENT[:1], TEACHER[:1])
    torch.testing.assert_close(of_maps(info=first_image_only, skip_ignored=True), expected)


def test_skipped_pixels_get_no_gradient():
    slope = gradient(info=batch_info(labels=labels((1,))), skip_ignored=True)
    assert slope[0].all()
    assert not slope[1].any()


def test_without_any_label_the_loss_is_an_exact_zero_with_a_graph():
    student = STUDENT.clone().requires_grad_()
    found = of_maps(student, info=batch_info(labels=labels(...)), skip_ignored=True)
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
        of_maps(info=batch_info(labels=found), skip_ignored=True)


@pytest.mark.parametrize(
    ("options", "needs"),
    [({}, set()), ({"clip_to_image": True}, {"sizes"}), ({"skip_ignored": True}, {"labels"})],
    ids=str,
)
def test_it_needs_of_a_batch_what_leaves_pixels_out(options, needs):
    assert KLDivergence(spec(), spec(), **options).needs == needs


# What is refused.


@pytest.mark.parametrize("option", ["CLIP_TO_IMAGE", "SKIP_IGNORED"])
def test_distributions_over_cells_leave_no_pixel_out(option):
    with pytest.raises(
        ConfigError, match="KD.LOSSES.channel_kd: SOFTMAX is cells, it has no pixels for CLIP_TO_IMAGE or"
    ):
        check_losses({"channel_kd": {option: True}})


def test_other_class_counts_are_refused():
    with pytest.raises(ConfigError, match="the student's logits have 10 classes, the teacher's 1000"):
        KLDivergence(classifier(10), classifier(1000))


def test_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="say RESIZE: student or RESIZE: teacher"):
        KLDivergence(spec(size=(4, 6)), spec())


# Every map, every precision, every device.


@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype):
    loss = KLDivergence(spec(256, (40, 56)), spec(256, (40, 56)))
    assert whole.low_precision_error(loss, (40, 56), dtype) < 0.01


@pytest.mark.parametrize("dtype", whole.LOW)
def test_half_precision_scores_give_a_float32_loss_and_their_own_gradient(dtype):
    student = STUDENT.to(dtype).requires_grad_()
    found = of_maps(student, TEACHER.to(dtype))
    found.backward()
    assert (found.dtype, student.grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(found, of_maps(), rtol=0.01, atol=0)
    torch.testing.assert_close(student.grad.float(), gradient(), rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("softmax", ["classes", "cells", "memory_runs"])
def test_strides_of_the_maps_do_not_matter(softmax):
    whole.same_for_any_strides(KLDivergence(spec(), spec(), softmax=softmax))


@pytest.mark.parametrize("softmax", ["classes", "cells"])
def test_it_never_waits_for_the_device(softmax):
    whole.never_reads_the_device(KLDivergence(spec(), spec(), softmax=softmax))


@pytest.mark.parametrize("softmax", ["classes", "cells"])
def test_one_map_is_kept_and_no_other_temporary_of_its_size_is_built(softmax):
    whole.keeps_one_map(KLDivergence(spec(19), spec(19), softmax=softmax))


# timm's own task.


class Linear(nn.Module):
    """A classifier of 3 x 4 x 4 pixels with the fields that timm's task reads."""

    pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    num_classes, in_chans = 6, 3

    def __init__(self, seed: int):
        super().__init__()
        self.weight = nn.Parameter(random_map(48, 6, seed=seed))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_function_matching_is_timms_logit_distillation_without_the_task_loss(temperature):
    task = pytest.importorskip("timm.task", reason="needs timm")
    student, teacher, images = Linear(0), Linear(1), random_map(4, 3, 4, 4, seed=2)
    theirs = task.LogitDistillationTask(
        student,
        teacher,
        nn.CrossEntropyLoss(),
        temperature=temperature,
        task_loss_weight=0.0,
        distill_loss_weight=1.0,
        verbose=False,
    )
    expected = theirs(images, torch.zeros(4, dtype=torch.int64))["loss"]
    ours = of_logits(student(images), teacher(images), temperature=temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
