"""Starting the student from parts of its teacher."""

from dataclasses import dataclass

from torch import Tensor, nn

from kd2.distill import ConfigError, nearest

_CHOICES = ("neck", "head", "neck+head")


@dataclass(frozen=True)
class CopiedParts:
    """Names of the parameters and buffers that were copied, and of those that only one side has in this shape."""

    copied: list[str]
    left: list[str]

    def text(self) -> str:
        """One line for the log."""
        rest = f", {len(self.left)} left out ({_first(self.left)})" if self.left else ""
        return f"{len(self.copied)} tensors of the teacher copied ({_first(self.copied)}){rest}"


def init_from_teacher(student: nn.Module, teacher: nn.Module, parts: str, backbone: str, partial: bool) -> CopiedParts:
    """Copy the teacher's neck, head or both into a student of the same architecture (``init_student`` of FGD and MGD).

    What lies below ``backbone`` is the backbone and is never copied; the rest of ``backbone.`` is the neck, everything
    else the head. Call it after all other initialization.

    Args:
        parts: ``neck``, ``head`` or ``neck+head``.
        backbone: prefix of the backbone's names without its feature pyramid, for example ``backbone.bottom_up.``.
        partial: accept tensors of the parts that only one side has, or has in another shape.

    Raises:
        ConfigError: unknown parts; a partial match that was not allowed, or no match at all. Nothing is copied then.
    """
    if parts not in _CHOICES:
        raise ConfigError(f"KD.INIT_FROM_TEACHER is {parts!r}; {nearest(parts, _CHOICES)}")
    wanted = parts.split("+")
    own, source = (_members(model.state_dict(), wanted, backbone) for model in (student, teacher))
    copied = [name for name in own if name in source and source[name].shape == own[name].shape]
    left = [name for name in own | source if name not in copied]
    if not copied or (left and not partial):
        way_out = "; KD.INIT_FROM_TEACHER_PARTIAL True leaves them out" if copied else ""
        raise ConfigError(
            f"KD.INIT_FROM_TEACHER is {parts!r}, but {len(left)} tensors are on one side only or of another shape "
            f"in the teacher ({_first(left)}), {len(copied)} agree{way_out}"
        )
    for name in copied:
        own[name].copy_(source[name])
    return CopiedParts(copied, left)


def _members(state: dict[str, Tensor], wanted: list[str], backbone: str) -> dict[str, Tensor]:
    """The entries of a state dict that belong to the wanted parts; a backbone without a pyramid has no neck."""
    pyramid = any(name.startswith(backbone) for name in state)
    chosen = {}
    for name, value in state.items():
        inside = name.startswith("backbone.")
        part = "head" if not inside else "neck" if pyramid and not name.startswith(backbone) else "backbone"
        if part in wanted:
            chosen[name] = value
    return chosen


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
