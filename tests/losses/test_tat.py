"""The target-aware transformer: the whole map, patches, anchors, memory."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measure import peak_mib
from kd2.distill import ConfigError
from kd2.losses import check_losses
from kd2.losses.tat import Tat, patch_tokens, target_aware_distance

from ..helpers import whole
from ..helpers.whole import random_map, spec, value

STUDENT, TEACHER = random_map(2, 4, 8, 12), random_map(2, 6, 8, 12, seed=1)


def tat(size: tuple[int, int] = (8, 12), **options) -> Tat:
    torch.manual_seed(0)
    return Tat(spec(4, size), spec(6, size), **options)


def test_the_whole_map_is_matched_with_its_raw_target():
    loss = tat()
    query, key, values, target = (x.flatten(2).mT for x in loss.adapters[0](STUDENT, TEACHER))
    assert torch.equal(target, TEACHER.flatten(2).mT) and torch.equal(key, target)
    expected = target_aware_distance(query, key, values, target) / TEACHER.numel()
    torch.testing.assert_close(tat()([STUDENT], [TEACHER], whole.batch_info()), {"patch": expected})


def test_rows_of_the_teacher_are_normalized_over_student_positions():
    loss = tat(rows="teacher")
    query, key, values, target = (x.flatten(2).mT for x in loss.adapters[0](STUDENT, TEACHER))
    expected = target_aware_distance(key, query, values, target) / TEACHER.numel()
    torch.testing.assert_close(value(tat(rows="teacher"), STUDENT, TEACHER), expected)


def test_heads_are_slices_of_the_channels():
    loss = tat(heads=3)
    maps = loss.adapters[0](STUDENT, TEACHER)
    slices = zip(*(x.split(2, dim=1) for x in maps))
    expected = sum(target_aware_distance(*(x.flatten(2).mT for x in head)) for head in slices) / TEACHER.numel()
    torch.testing.assert_close(loss.patch_loss(maps), expected)


# Patches and anchors.


def test_patches_count_row_by_row_and_stack_on_the_channel_axis():
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    tokens = patch_tokens(x, (2, 2), group=2, heads=1)
    # The first group: patches (0, 0) and (0, 1); its first position is their upper left cells, in both channels.
    assert tokens.shape == (2, 4, 4)
    assert tokens[0, 0].tolist() == [0, 16, 2, 18]
    assert tokens[1, 3].tolist() == [13, 29, 15, 31]


def test_rows_and_columns_that_fill_no_patch_are_left_out():
    x = random_map(1, 2, 5, 7)
    assert torch.equal(patch_tokens(x, (2, 3), 1, 1), patch_tokens(x[:, :, :4, :6], (2, 3), 1, 1))


@pytest.mark.parametrize("group", [1, 3])
def test_a_patch_that_does_not_divide_the_map(group):
    assert value(tat(patch=(3, 4), group=group), STUDENT, TEACHER).isfinite()


def test_a_group_shares_one_attention():
    loss = tat(patch=(4, 6), group=4)
    maps = loss.adapters[0](STUDENT, TEACHER)
    query, key, values, target = (patch_tokens(x, (4, 6), 1, 1).view(2, 4, 24, 6) for x in maps)
    attention = (query @ key.mT).sum(1, keepdim=True).softmax(-1)  # inner products of the patches add up
    torch.testing.assert_close(loss.patch_loss(maps), F.mse_loss(attention @ values, target))


def test_patch_by_patch_adds_the_means():
    plain, added = (value(tat(patch=(4, 4), patch_sum=s), STUDENT, TEACHER) for s in (False, True))
    torch.testing.assert_close(added, 6 * plain)


def test_anchors_are_averages():
    loss = tat(anchor_size=(4, 4), patch_weight=0.0, anchor_weight=1.0)
    pooled = [F.avg_pool2d(x, 4).flatten(2).mT for x in loss.adapters[0](STUDENT, TEACHER)]
    expected = target_aware_distance(*pooled) / pooled[3].numel()
    torch.testing.assert_close(
        tat(anchor_size=(4, 4), patch_weight=0.0, anchor_weight=1.0)([STUDENT], [TEACHER], whole.batch_info()),
        {"anchor": expected},
    )


def test_both_branches_have_their_weights():
    both = tat(patch=(4, 4), patch_weight=2.0, anchor_weight=3.0)([STUDENT], [TEACHER], whole.batch_info())
    patch = tat(patch=(4, 4))([STUDENT], [TEACHER], whole.batch_info())["patch"]
    anchor = tat(patch_weight=0.0, anchor_weight=1.0)([STUDENT], [TEACHER], whole.batch_info())["anchor"]
    torch.testing.assert_close(both, {"patch": 2 * patch, "anchor": 3 * anchor})


@pytest.mark.parametrize(("weights", "missing"), [((1.0, 0.0), "anchor_loss"), ((0.0, 1.0), "patch_loss")])
def test_a_branch_of_weight_zero_does_no_work(weights, missing, monkeypatch):
    monkeypatch.setattr(Tat, missing, None)  # calling it would fail
    assert value(tat(patch_weight=weights[0], anchor_weight=weights[1]), STUDENT, TEACHER).isfinite()


# What is refused.


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ConfigError, match="HEADS is 4, it must divide the teacher's 6 channels of level 0"):
        tat(heads=4)


def test_two_weights_of_zero_are_refused():
    with pytest.raises(ConfigError, match="KD.LOSSES.tat: PATCH_WEIGHT and ANCHOR_WEIGHT are both 0; to switch"):
        check_losses({"tat": {"PATCH_WEIGHT": 0}})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patch": [9, 4]}, r"PATCH is \[9, 4\], larger than the map of \(8, 12\) cells of level 0"),
        (
            {"anchor_size": [4, 13], "anchor_weight": 1.0},
            r"ANCHOR_SIZE is \[4, 13\], larger than the map of \(8, 12\) cells",
        ),
        ({"patch": [4, 4], "group": 4}, r"GROUP is 4, it must divide the 6 patches of \[4, 4\] cells that level 0 has"),
    ],
)
def test_maps_that_do_not_fit_the_options_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        value(tat(**options), STUDENT, TEACHER)


# Memory, strides, precision, device.


def test_no_map_of_positions_by_positions_is_in_memory():
    loss = Tat(spec(8, (48, 48)), spec(8, (48, 48)))
    student, teacher = random_map(1, 8, 48, 48).requires_grad_(), random_map(1, 8, 48, 48, seed=1)
    one_map = 2304 * 2304 * 4 / 2**20
    assert peak_mib(lambda: value(loss, student, teacher).backward(), torch.device("cpu")) < 0.5 * one_map


@pytest.mark.parametrize("options", [{}, {"patch": (4, 4), "group": 2, "anchor_weight": 1.0}])
def test_strides_of_the_maps_do_not_matter(options):
    torch.manual_seed(0)
    whole.same_for_any_strides(Tat(spec(), spec(), **options).eval())


@pytest.mark.parametrize("statistics", ["batch", "image"])
def test_it_never_waits_for_the_device(statistics):
    options = {"patch": (4, 4), "group": 2, "anchor_weight": 1.0, "statistics": statistics, "theta": "learned"}
    whole.never_reads_the_device(Tat(spec(), spec(), **options))


@pytest.mark.parametrize("size", whole.SIZES)
@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype, size):
    torch.manual_seed(0)
    options = {"projection_kernel": 1, "theta": "learned", "patch": (8, 8), "anchor_size": (8, 8), "anchor_weight": 1.0}
    assert whole.low_precision_error(Tat(spec(256, size), spec(256, size), **options), size, dtype) < 0.01
