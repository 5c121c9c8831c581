"""What losses with a temperature, and those over class logits, share."""

from torch import Tensor

from kd2.distill import ConfigError, FeatureSpec
from kd2.ops.precision import wide


def softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both logits over the temperature, in at least float32."""
    dtype = wide(student, teacher)
    return student.to(dtype) / temperature, teacher.to(dtype) / temperature


def check_temperature(temperature: float) -> None:
    """Raises ConfigError for a temperature that is not above 0."""
    if not temperature > 0:
        raise ConfigError(f"TEMPERATURE is {temperature}, expected a number above 0")


def check_classes(student: list[FeatureSpec], teacher: list[FeatureSpec]) -> None:
    """Raises ConfigError for logits of different class counts."""
    for s, t in zip(student, teacher, strict=True):
        if s.channels != t.channels:
            raise ConfigError(f"the student's logits have {s.channels} classes, the teacher's {t.channels}")
