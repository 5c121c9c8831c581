"""The student's channels brought to the teacher's."""

from torch import nn

from kd2.distill import FeatureSpec


def channel_adapter(student: FeatureSpec, teacher: FeatureSpec, bias: bool = True) -> nn.Module:
    """A 1x1 convolution Cs -> Ct, PyTorch's initialization; nothing when the channels already agree."""
    if student.channels == teacher.channels:
        return nn.Identity()
    return nn.Conv2d(student.channels, teacher.channels, 1, bias=bias)
