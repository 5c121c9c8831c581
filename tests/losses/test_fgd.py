"""Focal and global distillation: its parts, its gradients, what it keeps in memory."""

import pytest
import torch

from benchmarks import loss_cases
from benchmarks.measure import saved_mib
from kd2.distill import BatchInfo, ConfigError
from kd2.losses import check_losses
from kd2.losses.fgd import Fgd, fgd_parts, scale_mask

from ..helpers import whole
from ..helpers.whole import random_map, spec

# A map of 8 x 10 cells over an image of 64 x 80 pixels: 8 pixels a cell.
SIZE, IMAGE = (8, 10), (64, 80)
NONE = torch.zeros(0, 4)


def fgd(channels: int = 6, **options) -> Fgd:
    torch.manual_seed(0)
    return Fgd(spec(channels, SIZE), spec(6, SIZE), **options)


def parts(loss: Fgd, student: torch.Tensor, teacher: torch.Tensor, boxes: torch.Tensor = NONE) -> dict[str, float]:
    info = BatchInfo([IMAGE] * len(student), IMAGE, [boxes] * len(student))
    return {name: part.item() for name, part in loss([student], [teacher], info).items()}


STUDENT, TEACHER = random_map(2, 6, *SIZE), random_map(2, 6, *SIZE, seed=1)
BOX = torch.tensor([[8.0, 8, 30, 40]])


def test_equal_maps_cost_nothing_at_the_start():
    assert parts(fgd(), TEACHER, TEACHER, BOX) == dict.fromkeys(("fg", "bg", "att", "global"), 0.0)


def test_at_the_start_the_global_part_is_a_plain_squared_distance():
    expected = 5e-6 * (STUDENT - TEACHER).square().sum().item() / 2
    assert parts(fgd(), STUDENT, TEACHER)["global"] == pytest.approx(expected, rel=1e-5)


def test_each_part_has_its_factor():
    ones = dict.fromkeys(("alpha_fg", "beta_bg", "gamma_att", "lambda_global"), 1.0)
    plain = parts(fgd(**ones), STUDENT, TEACHER, BOX)
    found = parts(fgd(alpha_fg=2.0, beta_bg=3.0, gamma_att=5.0, lambda_global=7.0), STUDENT, TEACHER, BOX)
    factors = {"fg": 2, "bg": 3, "att": 5, "global": 7}
    assert found == pytest.approx({name: factors[name] * part for name, part in plain.items()}, rel=1e-5)


def test_without_boxes_there_is_no_foreground():
    found = parts(fgd(), STUDENT, TEACHER)
    assert found["fg"] == 0
    assert found["bg"] > 0


def test_a_low_temperature_looks_at_one_cell():
    teacher = TEACHER.clone()
    teacher[:, :, 2, 3] += 50
    student = teacher.clone()
    student[:, :, 7, 9] += 1  # far from where the teacher looks
    looking = {t: parts(fgd(temperature=t), student, teacher, BOX)["bg"] for t in (0.5, 500.0)}
    assert looking[0.5] < 1e-6 < looking[500.0]


def test_boxes_of_a_smaller_image_stay_in_place_unless_scaled_by_the_image():
    # The second image is 32 x 40 of 64 x 80: by its own size, its box is stretched over twice as many cells.
    info = BatchInfo([IMAGE, (32, 40)], IMAGE, [BOX, torch.tensor([[8.0, 8, 15, 15]])])
    for scaling, area in (("padded", 4), ("image", 9)):
        foreground = fgd(scaling=scaling).masks([SIZE], info)[0]["fg"]
        assert (foreground[1] > 0).sum().item() == area


def test_the_teachers_context_block_is_trained_too():
    loss = fgd()
    torch.nn.init.normal_(loss.contexts[0]["teacher"].add[3].weight)
    sum(loss([STUDENT], [TEACHER], BatchInfo([IMAGE] * 2, IMAGE, [BOX] * 2)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert loss.contexts[0]["teacher"].mask.weight.grad.any()


def test_gradients_are_those_of_finite_differences():
    loss = fgd(4).double()
    for side in loss.contexts[0].values():
        torch.nn.init.normal_(side.add[3].weight)
    info = BatchInfo([IMAGE], IMAGE, [BOX])
    student = random_map(1, 4, *SIZE).double().requires_grad_()
    teacher = TEACHER[:1].double()
    assert torch.autograd.gradcheck(lambda x: tuple(loss([x], [teacher], info).values()), student)


FACTORS = {"fg": "alpha_fg", "bg": "beta_bg", "att": "gamma_att", "global": "lambda_global"}


def with_gradient(names: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Parts, and the student's gradient, of a loss in which only these parts have a factor, which is 1."""
    loss = fgd(**{option: float(name in names) for name, option in FACTORS.items()})
    student = STUDENT.clone().requires_grad_()
    found = loss([student], [TEACHER], BatchInfo([IMAGE] * 2, IMAGE, [BOX] * 2))
    sum(found.values()).backward()
    assert all(p.grad is not None for p in loss.parameters())
    return found, student.grad


@pytest.mark.parametrize(
    "names", [["fg"], ["bg"], ["att"], ["global"], ["fg", "att"], ["bg", "global"], ["att", "global"]]
)
def test_a_part_without_a_factor_is_left_out_and_changes_no_other(names):
    alone = [with_gradient([name]) for name in names]
    found, gradient = with_gradient(names)
    everything, _ = with_gradient(list(FACTORS))
    assert list(found) == [name for name in FACTORS if name in names]
    torch.testing.assert_close(found, {name: everything[name] for name in found})
    torch.testing.assert_close(gradient, sum(slope for _, slope in alone))


@pytest.mark.parametrize(
    ("names", "idle"),
    [
        (["fg"], ["losses.fgd.Context", "ops.fgd_sums._pool"]),
        (["att"], ["losses.fgd.Context", "ops.fgd_sums._pool", "ops.fgd_sums._difference", "losses.fgd.scale_masks"]),
        (["global"], ["losses.fgd.scale_masks", "losses.fgd.attention", "ops.fgd_sums.mean_magnitudes"]),
    ],
)
def test_a_part_without_a_factor_does_no_work(names, idle, monkeypatch):
    for function in idle:
        monkeypatch.setattr(f"kd2.{function}", None)  # calling it would fail
    with_gradient(names)


def test_factors_that_are_all_zero_are_refused():
    with pytest.raises(
        ConfigError, match="KD.LOSSES.fgd: ALPHA_FG, BETA_BG, GAMMA_ATT and LAMBDA_GLOBAL are all 0; to"
    ):
        check_losses({"fgd": {option.upper(): 0.0 for option in FACTORS.values()}})


@pytest.mark.parametrize(("option", "needs"), [("gamma_att", set()), ("beta_bg", {"boxes", "sizes"})])
def test_it_needs_boxes_and_sizes_for_the_focal_parts_alone(option, needs):
    loss = fgd(**dict.fromkeys(FACTORS.values(), 0.0) | {option: 1.0})
    assert loss.needs == needs


def test_value_and_gradients_are_those_of_the_formula():
    loss = fgd(**dict.fromkeys(FACTORS.values(), 1.0))
    sides = tuple(loss.contexts[0].values())
    for side in sides:
        torch.nn.init.normal_(side.add[3].weight, std=0.1)
    student = STUDENT.clone().requires_grad_()
    masks = [torch.stack(level) for level in zip(*[scale_mask(BOX, SIZE, IMAGE)] * 2, strict=True)]
    expected = fgd_parts(student, TEACHER, *masks, 0.5, sides)
    found = loss([student], [TEACHER], BatchInfo([IMAGE] * 2, IMAGE, [BOX] * 2))
    torch.testing.assert_close(found, expected)
    leaves = [student, *loss.parameters()]
    slopes = [torch.autograd.grad(sum(parts.values()), leaves) for parts in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


def test_one_channel_is_refused():
    with pytest.raises(ConfigError, match=r"levels \[0\] have 1 channel; a context block needs 2 or more"):
        Fgd(spec(1), spec(1))


def test_saved_for_the_backward_pass_is_less_than_two_thirds_of_the_plain_form():
    case = loss_cases()["fgd"](torch.device("cpu"))
    assert saved_mib(case.ours) <= 0.65 * saved_mib(case.formula)


def test_strides_of_the_maps_do_not_matter():
    whole.same_for_any_strides(Fgd(spec(), spec()))


def test_it_never_waits_for_the_device():
    whole.never_reads_the_device(Fgd(spec(), spec()))


@pytest.mark.parametrize("size", whole.SIZES)
@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype, size):
    assert whole.low_precision_error(Fgd(spec(256, size), spec(256, size)), size, dtype) < 0.01


@pytest.mark.parametrize("dtype", whole.LOW)
def test_half_precision_maps_give_float32_parts(dtype):
    student = STUDENT.to(dtype).requires_grad_()
    found = fgd()([student], [TEACHER.to(dtype)], BatchInfo([IMAGE] * 2, IMAGE, [BOX] * 2))
    sum(found.values()).backward()
    assert {part.dtype for part in found.values()} == {torch.float32}
    assert student.grad.dtype == dtype
