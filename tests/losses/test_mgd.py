"""Masked generative distillation."""

import pytest
import torch

from kd2.distill import BatchInfo
from kd2.losses.mgd import Mgd, kept, mgd_loss

from ..helpers import whole
from ..helpers.whole import batch_info, random_map, spec, value

STUDENT, TEACHER = random_map(2, 4, 8, 12), random_map(2, 6, 8, 12, seed=1)


def mgd(**options) -> Mgd:
    torch.manual_seed(0)
    return Mgd(spec(4), spec(6), **options)


# The loss.


def test_without_a_mask_it_is_the_generation_alone():
    loss = mgd(ratio=0.0)
    expected = (loss.generations[0](loss.adapters[0](STUDENT)) - TEACHER).square().sum() / 2
    torch.testing.assert_close(value(loss, STUDENT, TEACHER), expected)


def test_value_is_that_of_the_formula_of_the_adapted_map():
    loss, info = mgd(ratio=0.5), batch_info()
    mask = kept(TEACHER, 0.5, "pixel", info.generator(torch.device("cpu")))
    expected = mgd_loss(loss.adapters[0](STUDENT), TEACHER, mask, loss.generations[0])
    torch.testing.assert_close(value(loss, STUDENT, TEACHER, info), expected)


def test_equal_channels_need_no_adapter():
    assert [name for name, _ in Mgd(spec(6), spec(6)).named_parameters() if "adapters" in name] == []


def test_levels_are_added_and_each_has_its_own_generation():
    torch.manual_seed(0)
    loss = Mgd(spec(4) * 2, spec(6) * 2, ratio=0.0)
    singles = []
    for adapter, generation in zip(loss.adapters, loss.generations, strict=True):
        single = mgd(ratio=0.0)
        single.adapters[0].load_state_dict(adapter.state_dict())
        single.generations[0].load_state_dict(generation.state_dict())
        singles.append(value(single, STUDENT, TEACHER))
    assert singles[0] != singles[1]
    torch.testing.assert_close(loss([STUDENT] * 2, [TEACHER] * 2, batch_info()), sum(singles))


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


def test_it_needs_the_sizes_of_the_images_only_to_clip():
    assert (mgd().needs, mgd(clip_to_image=True).needs) == (frozenset(), {"sizes"})


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
    return two.mask(TEACHER, level, batch_info(**fields)).flatten().tolist()


def test_a_resumed_run_repeats_its_masks():
    assert draw(seed=3, iteration=7, loss_name="mgd") == draw(seed=3, iteration=7, loss_name="mgd")


def test_seed_iteration_loss_process_and_level_each_change_the_mask():
    draws = [draw(), draw(seed=1), draw(iteration=1), draw(loss_name="other"), draw(level=1), draw(rank=1)]
    assert all(a != b for i, a in enumerate(draws) for b in draws[:i])


def test_ratio_zero_draws_nothing():
    student = STUDENT.clone().requires_grad_()
    assert "aten::rand" not in whole.operations_of(lambda: value(mgd(ratio=0.0), student, TEACHER).backward())


# Every map, every precision, every device.


def test_strides_of_the_maps_do_not_matter():
    torch.manual_seed(0)
    whole.same_for_any_strides(Mgd(spec(), spec()))


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(Mgd(spec(), spec()))


@pytest.mark.parametrize("size", whole.SIZES)
@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype, size):
    torch.manual_seed(0)
    assert whole.low_precision_error(Mgd(spec(256, size), spec(256, size)), size, dtype) < 0.01
