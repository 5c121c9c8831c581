"""Feature imitation by Pearson correlation."""

import pytest
import torch
from torch import Tensor

from kd2.distill import BatchInfo, ConfigError
from kd2.losses.pkd import Pkd, pearson_distance

from ..helpers import whole
from ..helpers.whole import batch_info, random_map, spec, value

STUDENT, TEACHER = random_map(2, 6, 8, 12), random_map(2, 6, 8, 12, seed=1)


def pkd(**options) -> Pkd:
    return Pkd(spec(6), spec(6), **options)


def slope(loss: Pkd, student: Tensor, info: BatchInfo | None = None) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(value(loss, student, TEACHER, info or batch_info()), student)[0]


def test_value_and_gradient_are_those_of_the_formula():
    student = STUDENT.double().requires_grad_()
    found = value(pkd(), student, TEACHER.double())
    expected = pearson_distance(student, TEACHER.double())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(expected, student))


def test_it_is_one_minus_the_mean_correlation():
    correlations = [
        torch.corrcoef(torch.stack([STUDENT[:, c].flatten(), TEACHER[:, c].flatten()]))[0, 1] for c in range(6)
    ]
    count = STUDENT[:, 0].numel()
    expected = (count - 1) / count * (1 - torch.stack(correlations).mean())
    torch.testing.assert_close(value(pkd(), STUDENT, TEACHER), expected, rtol=1e-4, atol=1e-6)


def test_scale_and_offset_of_a_channel_do_not_matter():
    scales, offsets = torch.tensor([100.0, 0.01, 1, 7, 3, 0.5]), torch.tensor([5.0, -3, 0, 1, 2, 9])
    moved = TEACHER * scales.view(1, 6, 1, 1) + offsets.view(1, 6, 1, 1)
    torch.testing.assert_close(value(pkd(), TEACHER, moved), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_an_adapter_has_no_bias():
    assert [name for name, _ in Pkd(spec(4), spec(6)).named_parameters()] == ["adapters.0.weight"]


def test_levels_are_added():
    loss = Pkd(spec(6) * 2, spec(6) * 2)
    total = loss([STUDENT, TEACHER], [TEACHER, STUDENT], batch_info())
    torch.testing.assert_close(total, 2 * value(pkd(), STUDENT, TEACHER))


def test_a_constant_channel_has_the_published_gradient_or_with_min_std_none():
    student = STUDENT.clone()
    student[:, 2] = 0.0
    published, guarded = slope(pkd(), student), slope(pkd(min_std=0.01), student)
    assert published[:, 2].abs().max() > 1e3 * published[:, 1].abs().max()
    assert not guarded[:, 2].any()
    torch.testing.assert_close(guarded[:, 3], published[:, 3])


def test_one_cell_is_an_exact_zero_in_the_graph():
    student = STUDENT[:1, :, :1, :1].clone().requires_grad_()
    found = value(pkd(), student, TEACHER[:1, :, :1, :1])
    found.backward()
    assert found == 0
    assert not student.grad.any()


def test_an_empty_batch_is_an_exact_zero_in_the_graph():
    student = STUDENT[:0].clone().requires_grad_()
    found = value(pkd(), student, TEACHER[:0], BatchInfo([], (64, 96)))
    found.backward()
    assert found == 0


def test_with_clip_to_image_padding_has_no_part():
    info = BatchInfo([(64, 96), (64, 48)], (64, 96))
    padded = STUDENT.clone()
    padded[1, :, :, 6:] = 77.0
    loss = pkd(clip_to_image=True)
    assert value(loss, padded, TEACHER, info) == value(loss, STUDENT, TEACHER, info)
    gradient = slope(loss, padded, info)
    assert not gradient[1, :, :, 6:].any()
    assert gradient[1, :, :, :6].any()


def test_clip_to_image_of_one_image_is_the_loss_of_the_part_inside():
    info = BatchInfo([(64, 48)], (64, 96))
    found = value(pkd(clip_to_image=True), STUDENT[:1], TEACHER[:1], info)
    torch.testing.assert_close(found, pearson_distance(STUDENT[:1, :, :, :6], TEACHER[:1, :, :, :6]))


def test_sizes_that_differ_are_refused_without_resize():
    with pytest.raises(ConfigError, match="RESIZE: student"):
        Pkd(whole.spec(6, size=(8, 12)), whole.spec(6, size=(4, 6)))


def test_the_student_is_resized_before_it_is_standardized():
    small = random_map(2, 6, 4, 6)
    resized = torch.nn.functional.interpolate(small, (8, 12), mode="bilinear", align_corners=False)
    loss = Pkd(whole.spec(6, size=(4, 6)), spec(6), resize="student")
    torch.testing.assert_close(value(loss, small, TEACHER), pearson_distance(resized, TEACHER))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_compared_in_float32(dtype):
    student, teacher = STUDENT.to(dtype) + 10, TEACHER.to(dtype)
    found = value(pkd(), student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pearson_distance(student.float(), teacher.float()))


def test_strides_of_the_maps_do_not_matter():
    whole.same_for_any_strides(pkd())


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(pkd())


def test_for_the_backward_pass_nothing_of_a_maps_size_is_kept_beside_the_two_maps():
    student, kept = STUDENT.clone().requires_grad_(), set()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.data_ptr()) or x, lambda x: x):
        value(pkd(), student, TEACHER)
    assert {student.data_ptr(), TEACHER.data_ptr()} <= kept
    assert len(kept) <= 4  # with the factors a channel, and the count
