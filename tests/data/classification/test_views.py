"""View modes: what teacher and student see, on pixels."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd2.data.classification.crops import Crops, View, apply
from kd2.data.classification.views import MODES, Views, check_cacheable
from kd2.distill import ConfigError

SIZE = (40, 60)
DRAWING = [name for name, mode in MODES.items() if not mode.ensemble]
INDEPENDENT = ["ind/rc", "ind/ic"]
SAME = ["same/rc", "same/ic", "same/rc+mixup", "same/ic+mixup", "funmatch"]


def picture(height: int = SIZE[0], width: int = SIZE[1]) -> Tensor:
    """Noise: two boxes of it that look alike are the same box."""
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def smooth(height: int, width: int) -> Tensor:
    """Red grows to the right, green to the bottom: pixels say where they come from."""
    rows, columns = torch.meshgrid(torch.linspace(0, 255, height), torch.linspace(0, 255, width), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)]).round().to(torch.uint8)


def views(mode: str, size: int = 32, teacher_size: int = 32, seed: int = 0, **crops) -> Views:
    return Views(mode, size, teacher_size, seed, Crops(**crops))


def pairs(mode: str, **options) -> Iterator[tuple[Tensor, Tensor]]:
    """What student and teacher see of 20 images of the same noise, in two epochs."""
    seen = views(mode, **options)
    return (seen.pixels(picture(), epoch, index) for epoch in (0, 1) for index in range(20))


# What each mode promises.


@pytest.mark.parametrize("mode", ["fix/rs", *SAME])
def test_both_networks_see_the_very_same_tensor(mode):
    assert all(student is teacher for student, teacher in pairs(mode))


@pytest.mark.parametrize("mode", ["fix/cc", *INDEPENDENT])
def test_the_networks_see_different_pixels(mode):
    different = [not torch.equal(*pair) for pair in pairs(mode)]
    assert sum(different) >= 38  # two of forty mild crops may coincide


@pytest.mark.parametrize("mode", INDEPENDENT)
def test_the_teachers_view_is_not_a_function_of_the_students(mode):
    seen = views(mode)
    drawn = [seen.draw(SIZE, epoch, index) for epoch in range(10) for index in range(40)]
    flips = torch.tensor([[student.flip, teacher.flip] for student, teacher in drawn]).double()
    tops = torch.tensor([[student.box[0], teacher.box[0]] for student, teacher in drawn]).double()
    assert abs(torch.corrcoef(flips.T)[0, 1]) < 0.15
    assert abs(torch.corrcoef(tops.T)[0, 1]) < 0.15


@pytest.mark.parametrize("mode", ["fix/rs", "fix/cc"])
def test_a_fixed_teacher_sees_the_same_pixels_every_epoch(mode):
    seen = views(mode)
    first, second = (seen.pixels(picture(), epoch, 3)[1] for epoch in (0, 7))
    assert torch.equal(first, second)


@pytest.mark.parametrize("mode", [name for name in DRAWING if name != "fix/rs"])
def test_the_student_sees_other_pixels_in_another_epoch(mode):
    seen = views(mode)
    assert len({seen.pixels(picture(), epoch, 3)[0].numpy().tobytes() for epoch in range(8)}) > 6


def test_the_whole_image_and_its_center():
    assert views("fix/rs").draw(SIZE, 5, 3)[1] == View((0, 0, 40, 60))
    assert views("fix/cc").draw(SIZE, 5, 3)[1] == View((4, 14, 32, 32))


def test_the_mild_crop_is_a_square_of_the_shorter_side_over_the_scale():
    boxes = [views("same/rc", scale=2.0).student(SIZE, 0, index).box for index in range(300)]
    assert {box[2:] for box in boxes} == {(20, 20)}
    assert {box[0] for box in boxes} == set(range(21)) and {box[1] for box in boxes} == set(range(41))


def test_the_inception_crop_keeps_its_share_and_aspect():
    boxes = np.array([views("same/ic").student((300, 300), 0, index).box for index in range(400)])
    shares, aspects = boxes[:, 2] * boxes[:, 3] / 90000, boxes[:, 3] / boxes[:, 2]
    assert 0.04 < shares.min() < 0.08 and 0.85 < shares.max() <= 1
    assert 0.73 < aspects.min() < 0.78 and 1.28 < aspects.max() < 1.37
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 300).all()


def test_an_image_in_which_no_inception_crop_fits_gives_the_largest_central_box():
    assert views("same/ic", area=(0.9, 1.0)).student((10, 100), 0, 0).box == (0, 43, 10, 13)


def test_half_of_the_views_are_mirrored():
    flips = [views("same/ic").student(SIZE, 0, index).flip for index in range(400)]
    assert 160 < sum(flips) < 240
    assert not any(views("same/ic", flip=0.0).student(SIZE, 0, index).flip for index in range(20))


def test_mixup_and_function_matching_go_by_name():
    assert [name for name, mode in MODES.items() if mode.mixup] == ["same/rc+mixup", "same/ic+mixup", "funmatch"]
    assert MODES["funmatch"] == MODES["same/ic+mixup"]


def test_an_unknown_mode_is_refused_with_near_names():
    with pytest.raises(ConfigError, match="KD.VIEWS.MODE is 'same/icc'; did you mean same/ic"):
        views("same/icc")


# Padded crops for small images.


def test_a_padded_crop_moves_the_whole_image_over_black():
    image = picture(32, 32)
    boxes = {views("same/rc", padding=4).student((32, 32), 0, index).box for index in range(1500)}
    assert boxes == {(top, left, 32, 32) for top in range(-4, 5) for left in range(-4, 5)}
    moved = apply(image, View((-4, 3, 32, 32)), 32)
    assert torch.equal(moved[:, 4:, :29], image[:, :28, 3:])
    assert not moved[:, :4].any() and not moved[:, :, 29:].any()


def test_the_center_of_a_padded_image_is_the_image():
    assert views("fix/cc", padding=4).teacher((32, 32), 0, 0) == View((0, 0, 32, 32))


# How a view is applied.


def test_a_box_of_the_right_size_is_copied_exactly():
    image = picture()
    assert torch.equal(apply(image, View((3, 5, 32, 32)), 32), image[:, 3:35, 5:37])
    assert torch.equal(apply(image, View((3, 5, 32, 32), flip=True), 32), image[:, 3:35, 5:37].flip(2))


def test_another_box_is_resized_as_pillow_does():
    image = picture(90, 120)
    found = apply(image, View((10, 20, 60, 80)), 32)
    cut = Image.fromarray(image[:, 10:70, 20:100].permute(1, 2, 0).numpy())
    expected = torch.from_numpy(np.array(cut.resize((32, 32), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("mode", SAME)
def test_two_resolutions_show_the_same_content(mode):
    seen = views(mode, size=32, teacher_size=64)
    assert not seen.shared
    for index in range(10):
        student, teacher = seen.pixels(smooth(160, 200), 0, index)
        assert (student.shape, teacher.shape) == ((3, 32, 32), (3, 64, 64))
        halved = torch.nn.functional.avg_pool2d(teacher.float(), 2)
        assert (halved - student.float()).abs().max() < 3


# The keys of the draws.


class Drawn(Dataset):
    """Pixels of both networks, one image an item."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return views("ind/ic").pixels(picture(), epoch=2, index=index)

    def __len__(self) -> int:
        return 8


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_do_not_change_the_draws(workers):
    alone = list(DataLoader(Drawn(), batch_size=2))
    for batch, expected in zip(DataLoader(Drawn(), batch_size=2, num_workers=workers), alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, expected))


def test_order_does_not_change_the_draws():
    ahead = {index: views("ind/ic").draw(SIZE, 4, index) for index in range(10)}
    seen = views("ind/ic")
    assert {index: seen.draw(SIZE, 4, index) for index in reversed(range(10))} == ahead


def test_seed_epoch_and_index_change_the_draws():
    keys = itertools.product((0, 1), (0, 1), (0, 1))
    boxes = [views("same/ic", seed=seed).student(SIZE, epoch, index).box for seed, epoch, index in keys]
    assert len(set(boxes)) == 8


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    views("same/ic").draw(SIZE, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)


# Views for a cache.


def test_the_cached_views_are_those_of_training():
    for mode in ("fix/rs", "fix/cc"):
        seen = views(mode)
        assert seen.fixed(SIZE, 3) == [seen.draw(SIZE, 9, 3)[1]]


def test_an_ensemble_has_many_views_and_repeats_them():
    seen = views("fix/ic_ens")
    assert len(set(seen.fixed(SIZE, 3, 50))) == 50
    assert seen.fixed(SIZE, 3, 50) == views("fix/ic_ens").fixed(SIZE, 3, 50)


def test_an_ensemble_has_no_single_view():
    with pytest.raises(ConfigError, match="fix/ic_ens: the teacher's target comes from a cache of its predictions"):
        views("fix/ic_ens").draw(SIZE, 0, 0)


@pytest.mark.parametrize("mode", [*INDEPENDENT, *SAME])
def test_other_modes_are_refused_a_cache(mode):
    with pytest.raises(ConfigError, match="another view in every epoch, so its outputs cannot be cached; a cache goes"):
        check_cacheable(mode)
