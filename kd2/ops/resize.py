"""Student and teacher maps brought to one size.

Letters: N images, Cs and Ct channels of student and teacher, H x W map.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kd2.distill import ConfigError, FeatureSpec

Resize = Literal["none", "student", "teacher"]


def check_sizes(student: list[FeatureSpec], teacher: list[FeatureSpec], resize: Resize) -> None:
    """Refuse levels whose maps differ in size, unless ``resize`` names the side that is interpolated.

    Raises:
        ConfigError: names the level, both sizes and both strides.
    """
    if resize != "none":
        return
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if (s.size, s.stride) != (t.size, t.stride):
            raise ConfigError(
                f"level {level} is a map of {s.size} cells at stride {s.stride} in the student and of {t.size} at "
                f"stride {t.stride} in the teacher; tap levels of one stride, or say RESIZE: student or RESIZE: teacher"
            )


def same_size(student: Tensor, teacher: Tensor, resize: Resize) -> tuple[Tensor, Tensor]:
    """Maps (N, Cs, H, W) and (N, Ct, H, W): the side that ``resize`` names is interpolated bilinearly to the other.

    Raises:
        ConfigError: the sizes differ and ``resize`` is ``none``.
    """
    s, t = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    if s == t:
        return student, teacher
    if resize == "none":
        raise ConfigError(f"the student's map has {s} cells, the teacher's {t}; say RESIZE: student or RESIZE: teacher")
    if resize == "student":
        return F.interpolate(student, t, mode="bilinear", align_corners=False), teacher
    return student, F.interpolate(teacher, s, mode="bilinear", align_corners=False)
