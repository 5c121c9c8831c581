"""Distillation of box heads: its parts, whatever the place of the background."""

import pytest
import torch

from kd2.distill import BatchInfo, ConfigError, FeatureSpec, Proposals
from kd2.losses import check_losses
from kd2.losses.dkd import decoupled
from kd2.losses.kl import divergences
from kd2.losses.roi_kd import RoiKd, own_class

R, K = 5, 3


def head(classes: int = K + 1, numbers: int = 4 * K) -> list[FeatureSpec]:
    return [FeatureSpec(channels, (1, 1), (1.0, 1.0)) for channels in (classes, numbers)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(seed: int, numbers: int = 4 * K) -> list[torch.Tensor]:
    return [draw(R, K + 1, 1, 1, seed=seed), draw(R, numbers, 1, 1, seed=seed + 1)]


LAST = Proposals(torch.tensor([0, K, 2, K, 1]), K, lambda: draw(R, 4, seed=9))


def loss(student: list, teacher: list, stages: list[Proposals], **options) -> dict[str, torch.Tensor]:
    specs = [[FeatureSpec(x.shape[1], tuple(x.shape[2:]), (1.0, 1.0)) for x in side] for side in (student, teacher)]
    return RoiKd(*specs, **options)(student, teacher, BatchInfo([], (0, 0), proposals=stages))


def test_classes_are_compared_by_dkd_with_the_published_factors():
    student, teacher = maps(0), maps(10)
    target, others = decoupled(student[0].flatten(1), teacher[0].flatten(1), LAST.labels)
    torch.testing.assert_close(loss(student, teacher, [LAST]), {"classes": target + 0.25 * others})


def test_classes_are_compared_by_a_mean_of_divergences():
    student, teacher = maps(0), maps(10)
    found = loss(student, teacher, [LAST], classes="kl", temperature=2.0)["classes"]
    torch.testing.assert_close(found, divergences(student[0].flatten(1), teacher[0].flatten(1), 2.0).mean())


@pytest.mark.parametrize(
    "options", [{}, {"classes": "kl", "background_weight": 1.5}, {"box": "bounded"}, {"box": "smooth_l1"}]
)
def test_a_background_in_front_gives_the_same_as_one_behind(options):
    def moved(side: list[torch.Tensor]) -> list[torch.Tensor]:
        """The background's score first, and a block of box numbers that means nothing for it."""
        return [side[0].roll(1, 1), torch.cat([draw(R, 4, 1, 1, seed=5), side[1]], 1)]

    first = Proposals((LAST.labels + 1) % (K + 1), 0, LAST.targets)
    student, teacher = maps(0), maps(10)
    found = loss(moved(student), moved(teacher), [first], **options)
    torch.testing.assert_close(found, loss(student, teacher, [LAST], **options))


def test_proposals_without_a_label_do_not_count():
    student, teacher = maps(0), maps(10)
    known = Proposals(LAST.labels[:3], K, LAST.targets)
    unknown = Proposals(torch.tensor([0, K, 2, -1, -1]), K, LAST.targets)
    for options in ({}, {"classes": "kl"}):
        expected = loss([x[:3] for x in student], [x[:3] for x in teacher], [known], **options)
        torch.testing.assert_close(loss(student, teacher, [unknown], **options), expected)


def test_a_cascade_is_the_mean_of_its_stages():
    student, teacher, other = (
        [*maps(0), *maps(2)],
        [*maps(10), *maps(12)],
        Proposals(LAST.labels.flip(0), K, LAST.targets),
    )
    stages = [loss(student[i : i + 2], teacher[i : i + 2], [p], box="bounded") for i, p in ((0, LAST), (2, other))]
    found = loss(student, teacher, [LAST, other], box="bounded")
    torch.testing.assert_close(found, {name: (stages[0][name] + stages[1][name]) / 2 for name in found})


def test_a_teacher_without_boxes_of_classes_and_with_another_encoding_is_brought_to_the_students():
    student, teacher = maps(0), maps(10, numbers=4)
    own = own_class(student[1].flatten(1), LAST.labels, 4)
    teacher[1] = (own / torch.tensor([2.0, 2, 1, 1]))[:, :, None, None]
    rescaled = Proposals(LAST.labels, K, LAST.targets, (2.0, 2.0, 1.0, 1.0))
    assert loss(student, teacher, [rescaled], box="smooth_l1")["boxes"] < 1e-12


def test_masks_of_the_objects_are_compared_in_the_order_of_the_proposals():
    student, teacher = [*maps(0), draw(3, K, 4, 4)], [*maps(10), draw(3, K, 4, 4, seed=1)]
    found = loss(student, teacher, [LAST], mask_weight=2.0)["masks"]
    s, t = (torch.stack([side[2][row, label] for row, label in enumerate([0, 2, 1])]) for side in (student, teacher))
    torch.testing.assert_close(found, 2 * torch.nn.functional.binary_cross_entropy_with_logits(s, t.sigmoid()))


def test_without_objects_boxes_and_masks_are_an_exact_0_that_keeps_the_graph():
    student = [x.requires_grad_() for x in [*maps(0), draw(0, K, 4, 4)]]
    nothing = Proposals(torch.full((R,), K), K, lambda: torch.full((R, 4), -torch.inf))
    found = loss(student, [*maps(10), draw(0, K, 4, 4)], [nothing], box="bounded")
    sum(found.values()).backward()
    assert found["boxes"] == found["masks"] == 0 and all(
        x.grad is not None and x.grad.isfinite().all() for x in student
    )


def test_a_tap_without_pairs_of_scores_and_boxes_is_refused():
    fpn = [FeatureSpec(8, (4, 4), (8.0, 8.0))] * 2
    with pytest.raises(ConfigError, match="expected the scores and boxes of a box predictor, such as roi=roi_heads"):
        RoiKd(fpn, fpn)


def test_other_class_counts_are_refused():
    with pytest.raises(ConfigError, match="the student scores 4 classes and background, the teacher 6"):
        RoiKd(head(), head(6, 20))


def test_a_weight_of_the_background_is_only_known_to_kl():
    with pytest.raises(ConfigError, match="BACKGROUND_WEIGHT is 1.5, only CLASSES: kl has such a weight"):
        check_losses({"roi_kd": {"BACKGROUND_WEIGHT": 1.5}})
