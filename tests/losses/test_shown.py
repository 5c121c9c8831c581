"""What losses show on pictures is what they compute with."""

import torch

from kd2.distill import BatchInfo, FeatureSpec
from kd2.losses.fgd import Fgd, attention, scale_mask
from kd2.losses.imitation import Imitation
from kd2.losses.mgd import Mgd
from kd2.losses.tat import Tat, center_cell

SPECS = [FeatureSpec(4, (4, 6), (8.0, 8.0))]
INFO = BatchInfo([(32, 48)], (32, 48), [torch.tensor([[8.0, 8.0, 24.0, 24.0]])])
STUDENT, TEACHER = ([torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(i))] for i in (0, 1))


def test_imitation_shows_the_cells_that_it_imitates():
    loss = Imitation(SPECS, SPECS, mode="gt_box")
    (mask,) = loss.shown(STUDENT, TEACHER, INFO)["mask"]
    wanted = torch.zeros(1, 4, 6)
    wanted[:, 1:3, 1:3] = 1
    assert torch.equal(mask, wanted)


def test_fgd_shows_its_weights_and_the_attention_of_the_teacher():
    shown = Fgd(SPECS, SPECS).shown(STUDENT, TEACHER, INFO)
    foreground, background = scale_mask(INFO.boxes[0], (4, 6), (32, 48))
    looked = attention(TEACHER[0].abs().mean(1).flatten(1), 0.5).view(1, 4, 6)
    for name, wanted in {
        "foreground": foreground[None], "background": background[None], "attention": looked,
        "foreground x attention": foreground * looked,
    }.items():  # fmt: skip
        torch.testing.assert_close(shown[name][0], wanted)


def test_fgd_without_focal_parts_shows_the_attention_alone():
    assert list(Fgd(SPECS, SPECS, alpha_fg=0.0, beta_bg=0.0).shown(STUDENT, TEACHER, INFO)) == ["attention"]


def test_mgd_shows_the_cells_that_it_drops():
    loss = Mgd(SPECS, SPECS)
    (holes,) = loss.shown(STUDENT, TEACHER, INFO)["holes"]
    assert torch.equal(holes, 1 - loss.mask(STUDENT[0], 0, INFO)[:, 0]) and 0 < holes.mean() < 1


def test_mgd_without_holes_shows_none_and_dropped_channels_have_no_place():
    assert not Mgd(SPECS, SPECS, ratio=0.0).shown(STUDENT, TEACHER, INFO)["holes"][0].any()
    assert Mgd(SPECS, SPECS, unit="channel").shown(STUDENT, TEACHER, INFO) == {}


def test_tat_shows_the_softmax_of_the_cell_under_the_largest_box():
    loss = Tat(SPECS, SPECS).eval()
    (looked,) = loss.shown(STUDENT, TEACHER, INFO)["attention"]
    query, key, *_ = (x.flatten(2)[0] for x in loss.adapters[0](STUDENT[0], TEACHER[0]))
    assert center_cell(0, (4, 6), INFO) == (2, 2)
    torch.testing.assert_close(looked.flatten(), (query[:, 2 * 6 + 2] @ key).softmax(0))


def test_tat_in_patches_looks_inside_the_patch_of_the_cell():
    loss = Tat(SPECS, SPECS, patch=(2, 3), heads=2).eval()
    (looked,) = loss.shown(STUDENT, TEACHER, INFO)["attention"]
    outside = looked.clone()
    outside[:, 2:4, 0:3] = 0
    assert not outside.any()
    torch.testing.assert_close(looked.sum(), torch.tensor(1.0))
