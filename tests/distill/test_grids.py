"""Maps of a teacher that pads its images further than the student."""

import torch

from kd2.distill import FeatureSpec
from kd2.distill.grids import cut_to_student, on_students_grid


def spec(channels: int, size: int, stride: float) -> FeatureSpec:
    return FeatureSpec(channels, (size, size), (stride, stride))


def test_a_level_of_the_students_stride_has_the_students_size():
    student, teacher = [spec(8, 64, 4.0), spec(8, 32, 8.0)], [spec(16, 256, 4.0), spec(16, 64, 16.0)]
    assert on_students_grid(teacher, student) == [spec(16, 64, 4.0), spec(16, 64, 16.0)]


def test_other_numbers_of_levels_are_left_to_who_refuses_them():
    student, teacher = [spec(8, 64, 4.0)], [spec(16, 256, 4.0), spec(16, 128, 8.0)]
    assert on_students_grid(teacher, student) == teacher


def test_what_lies_beyond_the_students_map_is_cut_off():
    specs = [spec(1, 4, 4.0)], [spec(1, 2, 4.0)]
    (found,) = cut_to_student([torch.arange(16.0).reshape(1, 1, 4, 4)], [torch.zeros(1, 1, 2, 3)], *specs)
    assert found.tolist() == [[[[0, 1, 2], [4, 5, 6]]]]


def test_maps_of_another_stride_stay_whole():
    specs = [spec(1, 4, 4.0)], [spec(1, 2, 8.0)]
    (found,) = cut_to_student([torch.zeros(1, 1, 4, 4)], [torch.zeros(1, 1, 2, 2)], *specs)
    assert found.shape == (1, 1, 4, 4)


def test_maps_of_equal_size_are_the_same_tensors():
    teacher = torch.zeros(1, 1, 2, 2)
    (found,) = cut_to_student([teacher], [torch.ones(1, 1, 2, 2)], [spec(1, 2, 4.0)], [spec(1, 2, 4.0)])
    assert found is teacher
