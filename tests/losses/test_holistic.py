"""Holistic distillation: a critic, what it teaches the student, and that the two leave each other alone."""

import dataclasses

import pytest
import torch
from torch import Tensor

from kd2.distill import ConfigError, override_groups
from kd2.losses.holistic import Holistic, critic_loss, gradient_penalty

from ..helpers.whole import batch_info, operations_of, random_map, spec

SIZE = (64, 64)
INPUTS = ["batch_norm", "tanh", "softmax", "none"]


def criterion(classes: int = 3, size: tuple[int, int] = SIZE, **options) -> Holistic:
    torch.manual_seed(0)
    return Holistic(spec(classes, size), spec(classes, size), **{"width": 2, "input": "tanh"} | options)


def maps(classes: int = 3, size: tuple[int, int] = SIZE, images: int = 2) -> tuple[Tensor, Tensor]:
    """Scores of a student, with gradient, and of a teacher."""
    student, teacher = random_map(images, classes, *size), 2 * random_map(images, classes, *size, seed=1)
    return student.requires_grad_(), teacher


def parts(holistic: Holistic, student: Tensor, teacher: Tensor, **fields) -> dict[str, Tensor]:
    return holistic([student], [teacher], dataclasses.replace(batch_info(len(student)), **fields))


# The two losses.


def test_the_students_part_gives_the_critic_no_gradient():
    holistic, (student, teacher) = criterion(), maps()
    parts(holistic, student, teacher)["student"].backward()
    assert student.grad.abs().sum() > 0
    assert [name for name, p in holistic.named_parameters() if p.grad is not None] == []


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge"])
def test_the_critics_part_gives_the_student_no_gradient(loss):
    holistic, (student, teacher) = criterion(loss=loss), maps()
    parts(holistic, student, teacher)["critic"].backward()
    assert student.grad is None
    assert [name for name, p in holistic.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("input", INPUTS)
def test_one_backward_equals_two_passes_in_the_order_of_the_authors(input):
    """Student: D(S) with everything attached, the critic's gradients thrown away. Critic: D(T), D(S), D(mixture)."""
    holistic, (student, teacher) = criterion(input=input), maps()
    sum(parts(holistic, student, teacher).values()).backward()
    joint = [p.grad for p in holistic.parameters()]

    critic, again = criterion(input=input).critic, student.detach().clone().requires_grad_()
    (-critic(again).mean()).backward()
    critic.zero_grad()
    real, fake = critic(teacher), critic(again.detach())
    share = batch_info(2).uniform_per_image(2, teacher.device)
    (fake.mean() - real.mean() + 10 * gradient_penalty(critic, teacher, again.detach(), share)).backward()
    torch.testing.assert_close(student.grad, again.grad)
    torch.testing.assert_close(joint, [p.grad for p in critic.parameters()])
    torch.testing.assert_close(dict(holistic.critic.named_buffers()), dict(critic.named_buffers()))


def test_hinge_counts_only_what_is_inside_the_margin():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert critic_loss(real, fake, "hinge") == 0.5 / 2 + 1 / 2
    assert critic_loss(real, fake, "wgan-gp") == -1.5 - 1.25


def test_the_penalty_is_0_where_the_slope_has_length_1():
    real, fake = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    assert gradient_penalty(lambda x: x.sum((1, 2, 3)) / 2, real, fake, torch.rand(2)) == 0


def test_the_penalty_of_a_flat_critic_is_1_and_its_gradient_finite():
    factor = torch.zeros(1, requires_grad=True)
    penalty = gradient_penalty(lambda x: factor * x, *maps(), torch.rand(2))
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5) and factor.grad.isfinite()


def test_hinge_has_no_penalty():
    holistic = criterion(loss="hinge")
    parts(holistic, *maps())
    assert set(holistic.stats) == {"distance"}


def test_the_stats_are_what_the_critics_loss_consists_of():
    holistic = criterion(penalty=3.0)
    loss = parts(holistic, *maps())["critic"]
    assert set(holistic.stats) == {"distance", "gradient_penalty"}
    assert not any(value.requires_grad for value in holistic.stats.values())
    torch.testing.assert_close(loss.detach(), 3 * holistic.stats["gradient_penalty"] - holistic.stats["distance"])


def test_the_mixture_is_drawn_anew_every_iteration_and_again_after_a_resume():
    values = []
    for iteration in (0, 1, 1):
        holistic = criterion()
        parts(holistic, *maps(), iteration=iteration)
        values.append(holistic.stats["gradient_penalty"].item())
    assert values[0] != values[1] == values[2]


def test_a_trained_critic_tells_the_maps_apart():
    holistic, (student, teacher) = criterion(loss="hinge", width=8, lr=0.01), maps()
    optimizer, distances = torch.optim.SGD(override_groups(holistic), momentum=0.9), []
    for _ in range(12):
        optimizer.zero_grad()
        parts(holistic, student, teacher + 1)["critic"].backward()
        optimizer.step()
        distances.append(holistic.stats["distance"].item())
    assert abs(distances[0]) < 0.1 and distances[-1] > 1


# What the critic sees.


def test_one_loss_takes_maps_of_several_sizes():
    holistic = criterion()
    for size in ((64, 64), (70, 131)):
        assert all(loss.isfinite() and loss.dim() == 0 for loss in parts(holistic, *maps(size=size)).values())


def test_the_image_stands_before_the_scores_at_the_size_of_the_map():
    holistic, (student, teacher) = criterion(condition="image", input="softmax"), maps()
    image = random_map(2, 3, 127, 127, seed=2)
    found = parts(holistic, student, teacher, images=lambda: image)["student"]
    critic = criterion(condition="image", input="softmax").critic
    assert critic.convs[0].weight.shape[1] == 6
    torch.testing.assert_close(found, -critic(student, image[:, :, ::2, ::2]).mean())


def test_a_condition_changes_the_students_loss():
    values = [
        parts(criterion(condition="image"), *maps(), images=lambda seed=seed: random_map(2, 3, 64, 64, seed=seed))[
            "student"
        ]
        for seed in (5, 6)
    ]
    assert values[0] != values[1]


def test_enlarging_lets_small_maps_through():
    student, teacher = maps(size=(16, 20))
    losses = parts(criterion(size=(16, 20), enlarge=4), student, teacher)
    sum(losses.values()).backward()
    assert student.grad.shape == student.shape and student.grad.abs().sum() > 0


def test_the_teachers_scores_are_resized_to_the_student():
    holistic = Holistic(spec(3, (64, 64)), spec(3, (128, 128), stride=4), width=2, input="tanh", resize="teacher")
    student, teacher = maps()[0], random_map(2, 3, 128, 128)
    assert all(loss.isfinite() for loss in parts(holistic, student, teacher).values())


# Solver, precision.


def test_the_solvers_keys_reach_the_critics_group():
    (group,) = override_groups(criterion(lr=0.5, weight_decay=0.25, clip=2.0))
    assert (group["lr"], group["weight_decay"], group["own_clip"]) == (0.5, 0.25, 2.0)
    (group,) = override_groups(criterion())
    assert (group["lr"], group["weight_decay"], group["own_clip"]) == (4e-4, 5e-4, 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_critic(dtype):
    exact = parts(criterion(), *maps())
    with torch.autocast("cpu", dtype=dtype):
        found = parts(criterion(), *maps())
    assert found == exact


def test_low_precision_maps_are_compared_in_float32():
    student, teacher = maps()
    losses = parts(criterion(), student.bfloat16(), teacher.bfloat16())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


@pytest.mark.parametrize("options", [{}, {"input": "batch_norm"}, {"loss": "hinge"}], ids=str)
def test_no_step_waits_for_a_value(options):
    holistic, (student, teacher) = criterion(**options), maps()
    operations = operations_of(lambda: sum(parts(holistic, student, teacher).values()).backward())
    assert operations and "aten::_local_scalar_dense" not in operations


# Bad input.


def test_it_needs_images_only_as_a_condition():
    assert (criterion().needs, criterion(condition="image").needs) == (frozenset(), {"images"})
    assert criterion().parts == ("student", "critic")


def test_class_counts_that_differ_are_refused():
    with pytest.raises(ConfigError, match="the student's logits have 3 classes, the teacher's 4"):
        Holistic(spec(3, SIZE), spec(4, SIZE))


def test_sizes_that_differ_are_refused():
    with pytest.raises(ConfigError, match="RESIZE: student or RESIZE: teacher"):
        Holistic(spec(3, SIZE), spec(3, (65, 65)))


def test_a_tap_with_several_maps_is_refused():
    with pytest.raises(ConfigError, match="the tap has 2 maps, the critic looks at one"):
        Holistic(2 * spec(3, SIZE), 2 * spec(3, SIZE))


@pytest.mark.parametrize("enlarge", [1, 2])
def test_maps_below_the_critics_smallest_size_are_refused(enlarge):
    text = r"a score map has \(20, 63\) cells.*, the critic needs 64 on each side: .* or say ENLARGE: 4"
    with pytest.raises(ConfigError, match=text):
        parts(criterion(size=(20, 63), enlarge=enlarge), *maps(size=(20, 63)))


def test_a_condition_without_images_is_refused():
    with pytest.raises(ConfigError, match="CONDITION is 'image', but"):
        parts(criterion(condition="image"), *maps())
