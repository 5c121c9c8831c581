"""DIST: correlations within samples and within classes, and where there are none."""

import pytest
import torch

from kd2.distill import AnchorGrid, BatchInfo, BoxCoder, BoxCoding, ConfigError, FeatureSpec
from kd2.losses.dist import Dist
from kd2.losses.kl import KLDivergence

INFO = BatchInfo([], (0, 0))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(student: torch.Tensor, teacher: torch.Tensor, info: BatchInfo = INFO, **options) -> dict[str, torch.Tensor]:
    spec = [FeatureSpec(student.shape[1], tuple(student.shape[2:]), (8.0, 8.0))]
    return Dist(spec, spec, **options)([student], [teacher], info)


def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b)])


def test_both_parts_are_one_minus_the_mean_correlation_times_the_squared_temperature():
    student, teacher = draw(6, 5, 1, 1).double(), draw(6, 5, 1, 1, seed=1).double()
    s, t = ((x.flatten(1) / 2).softmax(1) for x in (student, teacher))
    found = loss(student, teacher, temperature=2.0, beta=3.0, gamma=0.5)
    expected = {"inter": 3 * 4 * (1 - pearson(s, t).mean()), "intra": 0.5 * 4 * (1 - pearson(s.T, t.T).mean())}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_squared_temperature_can_be_left_out():
    student, teacher = draw(6, 5, 1, 1), draw(6, 5, 1, 1, seed=1)
    plain, squared = (loss(student, teacher, temperature=4.0, t_squared=x)["intra"] for x in (False, True))
    torch.testing.assert_close(squared, 16 * plain)


def test_every_pixel_of_every_image_is_a_sample():
    student, teacher = draw(2, 5, 3, 4), draw(2, 5, 3, 4, seed=1)
    rows = [x.movedim(1, 3).reshape(-1, 5, 1, 1) for x in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*rows))


def test_pixels_over_padding_can_be_left_out():
    student, teacher = draw(1, 5, 2, 4), draw(1, 5, 2, 4, seed=1)
    narrow = BatchInfo([(16, 16)], (16, 32))
    found = loss(student, teacher, narrow, clip_to_image=True)
    torch.testing.assert_close(found, loss(student[..., :2], teacher[..., :2]))


def test_a_sample_of_a_dense_head_is_a_location_or_an_anchor():
    def grids(sizes: list) -> list[AnchorGrid]:
        return [AnchorGrid(torch.zeros(3, 4), (8, 8), size) for size in sizes]

    info = BatchInfo([], (0, 0), coding=BoxCoding(grids, BoxCoder(), BoxCoder(), classes=4))
    student, teacher = draw(2, 12, 3, 4), draw(2, 12, 3, 4, seed=1)
    rows = [x.unflatten(1, (3, 4)).permute(0, 1, 3, 4, 2).reshape(-1, 4, 1, 1) for x in (student, teacher)]
    sigmoid = {"activation": "sigmoid"}
    torch.testing.assert_close(loss(student, teacher, info, row="anchor", **sigmoid), loss(*rows, **sigmoid))


@pytest.mark.parametrize(
    ("channels", "classes", "text"),
    [
        (3, 1, "a sample has one class, .*; ROW location compares"),
        (12, 3, "12 channels, expected 3 anchors x 3 classes"),
    ],
)
def test_an_anchor_of_one_class_has_no_relations_and_boxes_are_no_scores(channels, classes, text):
    def grids(sizes: list) -> list[AnchorGrid]:
        return [AnchorGrid(torch.zeros(3, 4), (8, 8), size) for size in sizes]

    info = BatchInfo([], (0, 0), coding=BoxCoding(grids, BoxCoder(), BoxCoder(), classes))
    with pytest.raises(ConfigError, match=text):
        loss(draw(2, channels, 3, 4), draw(2, channels, 3, 4, seed=1), info, row="anchor")


def test_constant_predictions_of_a_new_head_send_a_huge_gradient_unless_they_are_skipped():
    teacher = draw(4, 7, 1, 1, seed=1)
    sizes = []
    for skip in (False, True):
        student = torch.zeros(4, 7, 1, 1, requires_grad=True)
        found = loss(student, teacher, skip_constant=skip)
        sum(found.values()).backward()
        sizes.append(student.grad.abs().max())
        assert found["inter"].item() == found["intra"].item() == pytest.approx(1)
    assert sizes[0] > 1000 and sizes[1] == 0


def test_without_a_sample_both_parts_are_0_and_keep_the_graph():
    student = torch.zeros(0, 5, 1, 1, requires_grad=True)
    found = loss(student, torch.zeros(0, 5, 1, 1))
    sum(found.values()).backward()
    assert found["inter"] == found["intra"] == 0 and student.grad is not None


def test_half_precision_is_computed_in_float32():
    student, teacher = draw(6, 5, 1, 1).half(), draw(6, 5, 1, 1, seed=1).half()
    torch.testing.assert_close(loss(student, teacher), loss(student.float(), teacher.float()))


def test_one_class_has_no_relations():
    with pytest.raises(ConfigError, match="DIST needs at least two"):
        loss(draw(2, 1, 4, 4), draw(2, 1, 4, 4))


@pytest.mark.parametrize("loss", [Dist, KLDivergence])
def test_boxes_are_no_scores(loss):
    """The tap of a dense head for dense_kd: its scores, then its boxes."""
    levels = [FeatureSpec(channels, (8 // n, 8 // n), (8.0 * n, 8.0 * n)) for channels in (6, 12) for n in (1, 2)]
    with pytest.raises(ConfigError, match=r"^the tap has every level twice, with \[6, 6\] and \[12, 12\] channels"):
        loss(levels, levels)
