"""Distances between student and teacher."""

import torch

from kd2.losses.distances import DISTANCES, agreement, hard_divergence


def test_agreement_asks_for_the_teachers_class_among_the_students_first():
    student = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    teacher = torch.tensor([[0.0, 5.0, 4.0], [9.0, 5.0, 4.0]])
    assert agreement(student, teacher).tolist() == [False, True]
    assert agreement(student, teacher, 2).tolist() == [True, True]


def test_a_student_that_equals_its_teacher_agrees_and_has_no_distance():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert all(DISTANCES[name](x, x).all() for name in ("agree_1", "agree_5"))
    for name in ("kl", "l2", "euclidean", "logsoftmax_euclidean"):
        assert not DISTANCES[name](x, x).any()


def test_the_hard_divergence_is_the_cross_entropy_with_the_teachers_class():
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(student, teacher.argmax(1), reduction="none")
    torch.testing.assert_close(hard_divergence(student, teacher), expected)
