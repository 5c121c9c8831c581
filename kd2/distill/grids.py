"""Maps of student and teacher that lie on one grid, though the teacher pads its images further.

Padding is added on the right and at the bottom. Levels of equal stride therefore agree cell by cell from the top left
corner on, and what the teacher's map has beyond the student's saw nothing but padding: it is cut off.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from kd2.distill.taps import FeatureSpec

Specs = list[FeatureSpec]


def on_students_grids(teacher: Mapping[str, Specs], student: Mapping[str, Specs]) -> dict[str, Specs]:
    """``on_students_grid`` for every tap of the teacher; one that the student lacks stays as it is."""
    return {alias: on_students_grid(specs, student.get(alias, specs)) for alias, specs in teacher.items()}


def on_students_grid(teacher: Specs, student: Specs) -> Specs:
    """The teacher's levels; one of the student's stride has the student's size, whatever each probe was padded to."""
    if len(teacher) != len(student):
        return teacher
    return [replace(t, size=s.size) if t.stride == s.stride else t for t, s in zip(teacher, student)]


def cut_to_student(
    teacher: list[Tensor], student: list[Tensor], teacher_specs: Specs, student_specs: Specs
) -> list[Tensor]:
    """The teacher's maps (N, Ct, H, W), those of the student's stride no larger than the student's maps."""
    return [
        t[..., : s.shape[2], : s.shape[3]] if t.shape[2:] != s.shape[2:] and of_t.stride == of_s.stride else t
        for t, s, of_t, of_s in zip(teacher, student, teacher_specs, student_specs, strict=True)
    ]
