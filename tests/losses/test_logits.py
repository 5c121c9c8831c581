"""Distillation of class logits."""

import pytest
import torch
import torch.nn.functional as F
from ..helpers import whole
from torch import Tensor, nn
from ..helpers.whole import random_map, batch_info, spec, value

from kd2.distill import ConfigError, FeatureSpec, BatchInfo
from kd2.losses.logits import Logits, divergences


def classifier(classes: int = 6) -> list[FeatureSpec]:
    return [FeatureSpec(classes, (1, 1), (1.0, 1.0))]


def loss(student: Tensor, teacher: Tensor, **options) -> Tensor:
    """The loss on a classifier's logits (N, K)."""
    criterion = Logits(classifier(student.shape[1]), classifier(student.shape[1]), **options)
    return criterion([student[:, :, None, None]], [teacher[:, :, None, None]], BatchInfo([(8, 8)] * len(student), (8, 8)))


def test_the_divergence_is_of_the_student_from_the_teacher():
    # Teacher (1/2, 1/2), student (3/4, 1/4): KL = ln 2 - (ln 3) / 2; the other direction is 0.1308.
    assert loss(torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)).item() == pytest.approx(0.143841)


def test_images_are_averaged_and_classes_added():
    student, teacher = random_map(5, 6), random_map(5, 6, seed=1)
    torch.testing.assert_close(loss(student, teacher), divergences(student, teacher).mean())


def test_the_temperature_divides_the_logits_and_its_square_multiplies_the_loss():
    student, teacher = random_map(5, 6), random_map(5, 6, seed=1)
    torch.testing.assert_close(loss(student, teacher, temperature=3.0), 9 * loss(student / 3, teacher / 3))


def test_the_gradient_is_the_difference_of_the_softened_distributions():
    student, teacher = random_map(5, 6).requires_grad_(), random_map(5, 6, seed=1)
    loss(student, teacher, temperature=4.0).backward()
    expected = 4.0 / 5 * ((student / 4).softmax(1) - (teacher / 4).softmax(1))
    torch.testing.assert_close(student.grad, expected)


def test_a_student_that_equals_its_teacher_has_no_loss():
    assert loss(random_map(5, 6), random_map(5, 6), temperature=10.0).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_give_finite_loss_and_gradient(dtype):
    student = torch.tensor([[3e4, -3e4, 0.0], [0.0, 3e4, 3e4]], dtype=dtype, requires_grad=True)
    found = loss(student, torch.tensor([[-3e4, 3e4, 0.0], [3e4, 0.0, -3e4]], dtype=dtype))
    found.backward()
    assert found.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", whole.LOW)
def test_half_precision_logits_are_compared_in_float32(dtype):
    student, teacher = random_map(4, 1000).to(dtype), random_map(4, 1000, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = loss(student, teacher, temperature=4.0)
    assert found.dtype == torch.float32
    exact = loss(student.double(), teacher.double(), temperature=4.0)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


# Maps: each pixel is a sample.


def test_pixels_are_averaged():
    student, teacher = random_map(2, 6, 8, 12), random_map(2, 6, 8, 12, seed=1)
    samples = [x.permute(0, 2, 3, 1).reshape(-1, 6) for x in (student, teacher)]
    torch.testing.assert_close(value(Logits(spec(), spec()), student, teacher), loss(*samples))


def test_pixels_over_padding_do_not_count():
    student, teacher = random_map(2, 6, 8, 12), random_map(2, 6, 8, 12, seed=1)
    padded = BatchInfo([(64, 48), (64, 96)], (64, 96))
    real = torch.cat([divergences(student, teacher)[0, :, :6].flatten(), divergences(student, teacher)[1].flatten()])
    torch.testing.assert_close(value(Logits(spec(), spec()), student, teacher, padded), real.mean())
    every = value(Logits(spec(), spec(), clip_to_image=False), student, teacher, padded)
    torch.testing.assert_close(every, divergences(student, teacher).mean())


def test_a_smaller_student_map_is_resized_as_logits():
    student, teacher = random_map(2, 6, 4, 6), random_map(2, 6, 8, 12, seed=1)
    found = value(Logits(spec(size=(4, 6), stride=16), spec(), resize="student"), student, teacher)
    expected = value(Logits(spec(), spec()), F.interpolate(student, (8, 12), mode="bilinear"), teacher)
    torch.testing.assert_close(found, expected)


def test_other_sizes_are_refused():
    with pytest.raises(ConfigError, match="say RESIZE: student or RESIZE: teacher"):
        Logits(spec(size=(4, 6)), spec())


def test_strides_of_the_maps_do_not_matter():
    whole.same_for_any_strides(Logits(spec(), spec()))


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(Logits(spec(), spec()))


# What is refused.


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(ConfigError, match=f"TEMPERATURE is {temperature}, expected a number above 0"):
        Logits(classifier(), classifier(), temperature=temperature)


def test_other_class_counts_are_refused():
    with pytest.raises(ConfigError, match="the student's logits have 10 classes, the teacher's 1000"):
        Logits(classifier(10), classifier(1000))


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
        student, teacher, nn.CrossEntropyLoss(), temperature=temperature,
        task_loss_weight=0.0, distill_loss_weight=1.0, verbose=False,
    )
    expected = theirs(images, torch.zeros(4, dtype=torch.int64))["loss"]
    ours = loss(student(images), teacher(images), temperature=temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_map_is_kept_and_no_other_temporary_of_its_size_is_built():
    whole.keeps_one_map(Logits(spec(19), spec(19)))
