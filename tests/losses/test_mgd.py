"""Masked generative distillation, and the plain mimicking that it is compared with."""

import pytest
import torch
import torch.nn.functional as F
from ..helpers import whole
from ..helpers.whole import random_map, batch_info, spec, value

from kd2.distill import ConfigError, BatchInfo
from kd2.ops.squared_distance import squared_distance
from kd2.losses.mgd import Mgd, kept
from kd2.losses.mimic import Mimic

STUDENT, TEACHER = random_map(2, 4, 8, 12), random_map(2, 6, 8, 12, seed=1)


def mgd(**options) -> Mgd:
    torch.manual_seed(0)
    return Mgd(spec(4), spec(6), **options)


# The loss.


def test_without_a_mask_it_is_the_block_alone():
    criterion = mgd(ratio=0.0)
    block = criterion.blocks[0]
    expected = (block.generation(block.align(STUDENT)) - TEACHER).square().sum() / 2
    torch.testing.assert_close(value(criterion, STUDENT, TEACHER), expected)


def test_the_mask_multiplies_the_aligned_map():
    criterion, a_scene = mgd(ratio=0.5), batch_info()
    block = criterion.blocks[0]
    mask = kept(TEACHER, 0.5, "pixel", a_scene.generator(torch.device("cpu")))
    expected = (block.generation(block.align(STUDENT) * mask) - TEACHER).square().sum() / 2
    torch.testing.assert_close(value(criterion, STUDENT, TEACHER, a_scene), expected)


def test_equal_channels_need_no_alignment():
    assert [name for name, _ in Mgd(spec(6), spec(6)).named_parameters() if "align" in name] == []


def test_levels_are_added_and_each_has_its_own_block():
    torch.manual_seed(0)
    criterion = Mgd(spec(4) * 2, spec(6) * 2, ratio=0.0)
    singles = []
    for block in criterion.blocks:
        single = mgd(ratio=0.0)
        single.blocks[0].load_state_dict(block.state_dict())
        singles.append(value(single, STUDENT, TEACHER))
    assert singles[0] != singles[1]
    torch.testing.assert_close(criterion([STUDENT] * 2, [TEACHER] * 2, batch_info()), sum(singles))


def test_ratio_one_gives_the_student_an_exact_zero_gradient():
    student = STUDENT.clone().requires_grad_()
    loss = value(mgd(ratio=1.0), student, TEACHER)
    loss.backward()
    assert loss.isfinite()
    assert not student.grad.any()


def test_an_empty_batch_gives_zero():
    assert value(mgd(), STUDENT[:0], TEACHER[:0], BatchInfo([], (64, 96))).item() == 0


def test_cells_over_padding_count_by_default_and_not_on_request():
    # The second image is 64 x 48 of 64 x 96: half of its columns are padding.
    padded = BatchInfo([(64, 96), (64, 48)], (64, 96))
    other = TEACHER.clone()
    other[1, :, :, 6:] += 100
    plain, clipped = mgd(), mgd(clip_to_image=True)
    assert value(plain, STUDENT, other, padded) > 2 * value(plain, STUDENT, TEACHER, padded)
    torch.testing.assert_close(value(clipped, STUDENT, other, padded), value(clipped, STUDENT, TEACHER, padded))


# The mask.


@pytest.mark.parametrize(("unit", "shape"), [("pixel", (2, 1, 8, 12)), ("channel", (2, 6, 1, 1))])
def test_the_unit_decides_what_is_dropped_together(unit, shape):
    assert kept(TEACHER, 0.5, unit, torch.Generator()).shape == shape


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)])
def test_the_ratio_is_the_share_dropped(ratio, share):
    mask = kept(torch.zeros(4, 1, 200, 200), ratio, "pixel", torch.Generator().manual_seed(0))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(share, abs=0.01 if 0 < ratio < 1 else 0)


def draw(level: int = 0, **fields) -> list[float]:
    two = Mgd(spec() * 2, spec() * 2)
    return two.factors(TEACHER, level, batch_info(**fields)).flatten().tolist()


def test_a_resumed_run_repeats_its_masks():
    assert draw(seed=3, iteration=7, criterion="mgd") == draw(seed=3, iteration=7, criterion="mgd")


def test_seed_iteration_loss_process_and_level_each_change_the_mask():
    draws = [draw(), draw(seed=1), draw(iteration=1), draw(criterion="other"), draw(level=1), draw(rank=1)]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


def test_ratio_zero_draws_nothing():
    student = STUDENT.clone().requires_grad_()
    assert "aten::rand" not in whole.operations_of(lambda: value(mgd(ratio=0.0), student, TEACHER).backward())


# What is refused.


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ConfigError, match=rf"RATIO is {ratio}, expected a number in \[0, 1\]"):
        mgd(ratio=ratio)


# Squared distances.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_give_a_float32_distance_and_their_own_gradient(dtype):
    a = torch.full((1, 1, 2, 2), 300.0, dtype=dtype).requires_grad_()
    loss = squared_distance(a, torch.zeros_like(a))
    loss.backward()
    assert (loss.dtype, loss.item()) == (torch.float32, 360000.0)
    assert torch.equal(a.grad, torch.full_like(a, 600.0))


def test_only_the_two_maps_are_kept_for_the_backward_pass():
    a, b, saved = STUDENT.clone().requires_grad_(), STUDENT + 1, []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.data_ptr()) or x, lambda x: x):
        squared_distance(a, b)
    assert set(saved) == {a.data_ptr(), b.data_ptr()}


# Plain mimicking.


def test_mimicking_has_the_normalization_of_mgd():
    criterion = Mimic(spec(6), spec(6))
    assert list(criterion.parameters()) == []
    assert value(criterion, torch.zeros(2, 6, 8, 12), torch.full((2, 6, 8, 12), 2.0)).item() == 4 * 6 * 8 * 12


def test_mimicking_aligns_other_channels():
    criterion = Mimic(spec(4), spec(6))
    conv = criterion.aligns[0]
    expected = (F.conv2d(STUDENT, conv.weight, conv.bias) - TEACHER).square().sum() / 2
    torch.testing.assert_close(value(criterion, STUDENT, TEACHER), expected)


# Every map, every precision, every device.


@pytest.mark.parametrize("kind", [Mgd, Mimic])
def test_strides_of_the_maps_do_not_matter(kind):
    torch.manual_seed(0)
    whole.same_for_any_strides(kind(spec(), spec()))


@pytest.mark.parametrize("kind", [Mgd, Mimic])
def test_it_never_waits_for_the_device(kind):
    whole.never_reads_the_device(kind(spec(), spec()))


@pytest.mark.parametrize("size", whole.SIZES)
@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype, size):
    torch.manual_seed(0)
    assert whole.low_precision_error(Mgd(spec(256, size), spec(256, size)), size, dtype) < 0.01
