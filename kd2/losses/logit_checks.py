"""What the losses over class logits share."""

from torch import Tensor

from kd2.distill import ConfigError, FeatureSpec
from kd2.ops.precision import wide


def softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both logits divided by the temperature, in at least float32."""
    dtype = wide(student, teacher)
    return student.to(dtype) / temperature, teacher.to(dtype) / temperature


def check_classes(student: list[FeatureSpec], teacher: list[FeatureSpec]) -> None:
    """Raise ConfigError for logits of different class counts."""
    for s, t in zip(student, teacher, strict=True):
        if s.channels != t.channels:
            raise ConfigError(f"the student's logits have {s.channels} classes, the teacher's {t.channels}")


def refuse_one_class(specs: list[FeatureSpec]) -> None:
    """Raise ConfigError for logits whose softmax over the classes is always 1, so that nothing is taught."""
    if any(spec.channels < 2 for spec in specs):
        raise ConfigError(
            "the scores are of one class, a softmax over it is always 1; expected two classes or more, or the softmax "
            "over the cells of each (channel_kd)"
        )


def check_scores(channels: int, anchors: int, classes: int) -> None:
    """Raise ConfigError for a map that is not the scores of each anchor of a cell, such as one of boxes."""
    if channels != anchors * classes:
        raise ConfigError(
            f"a map of scores has {channels} channels, expected {anchors} anchors x {classes} classes a cell"
        )


def refuse_boxes(specs: list[FeatureSpec]) -> None:
    """Raise ConfigError for a tap that goes on with other maps, such as those of boxes, on the levels of its first."""
    first, second = specs[: len(specs) // 2], specs[len(specs) // 2 :]
    strides, channels = (
        [[getattr(x, field) for x in half] for half in (first, second)] for field in ("stride", "channels")
    )
    if first and strides[0] == strides[1] and channels[0] != channels[1]:
        raise ConfigError(
            f"the tap has every level twice, with {channels[0]} and {channels[1]} channels, expected scores alone"
        )


def check_cells(student: list[FeatureSpec], teacher: list[FeatureSpec]) -> None:
    """Raise ConfigError for maps whose cells are not those of the other side."""
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if (s.size, s.stride) != (t.size, t.stride):
            raise ConfigError(
                f"level {level} has {s.size} cells at stride {s.stride} in the student, {t.size} at stride {t.stride} "
                "in the teacher; they are compared cell by cell"
            )
