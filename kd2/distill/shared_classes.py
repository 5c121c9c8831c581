"""The classes that a student and one of its teachers have in common, found by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd2.distill.errors import ConfigError

Index = list[int]


def shared_channels(student: tuple[Sequence[str], int], teacher: tuple[Sequence[str], int]) -> tuple[Index, Index]:
    """Channels of the two sides' score maps that mean the same class, in the student's order.

    Args:
        student, teacher: class names, and channels of a map: K classes, or A x K with the classes of an anchor side by
            side.

    Raises:
        ConfigError: no name in common, channels that are no multiple of the classes, or of another number of anchors.
    """
    both = [name for name in student[0] if name in teacher[0]]
    if not both:
        raise ConfigError(
            f"the teacher knows no class of the student's: {', '.join(teacher[0][:9]) or 'no names are known'} and "
            f"{', '.join(student[0][:9]) or 'no names are known'}"
        )
    anchors = []
    for names, channels in (student, teacher):
        if channels % len(names):
            raise ConfigError(f"the tap has {channels} channels, expected a multiple of the {len(names)} classes")
        anchors.append(channels // len(names))
    if anchors[0] != anchors[1]:
        raise ConfigError(f"the tap has {anchors[0]} and {anchors[1]} channels a class, expected as many on both sides")
    first, second = (
        [anchor * len(names) + list(names).index(name) for anchor in range(anchors[0]) for name in both]
        for names, _ in (student, teacher)
    )
    return first, second


class SharedClasses(nn.Module):
    """Keeps the channels of ``shared_channels`` of the maps of both sides, (N, C, H, W)."""

    student: Tensor
    teacher: Tensor

    def __init__(self, student: Index, teacher: Index):
        super().__init__()
        self.register_buffer("student", torch.tensor(student), persistent=False)
        self.register_buffer("teacher", torch.tensor(teacher), persistent=False)

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of both sides with C channels each."""
        return [x[:, self.student] for x in student], [x[:, self.teacher] for x in teacher]
