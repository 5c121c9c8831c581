"""Starting the student from parts of its teacher."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from kd2.core.errors import ConfigError, nearest

PARTS = ("neck", "head")


@dataclass(frozen=True)
class Inherited:
    """Names of the student's parameters and buffers that were copied, and of those of the parts that were not."""

    copied: list[str]
    left: list[str]

    def text(self) -> str:
        """One line for the log."""
        rest = f", {len(self.left)} left ({', '.join(self.left[:3])})" if self.left else ""
        return f"{len(self.copied)} tensors inherited from the teacher{rest}"


def inherit(student: nn.Module, teacher: nn.Module, parts: str, body: str, partial: bool) -> Inherited:
    """Copy the teacher's neck, head or both into a student of the same architecture (``init_student`` of FGD and MGD).

    What lies below ``body`` is the backbone and is never copied; the rest of ``backbone.`` is the neck, everything else the
    head. Call it after all other initialisation.

    Args:
        parts: ``neck``, ``head`` or ``neck+head``.
        body: prefix of the backbone's names without its feature pyramid, for example ``backbone.bottom_up.``.
        partial: accept that some tensors of the parts are missing in the teacher or have another shape there.

    Raises:
        ConfigError: unknown parts; a partial match that was not allowed, or no match at all. Nothing is copied then.
    """
    wanted = parts.split("+")
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        raise ConfigError(f"KD.INHERIT is {parts!r}; {nearest(unknown[0], ('neck', 'head', 'neck+head'))}")
    own, source = student.state_dict(), teacher.state_dict()
    members = [name for name in own if _part(name, body, own) in wanted]
    copied = [name for name in members if name in source and source[name].shape == own[name].shape]
    left = [name for name in members if name not in copied]
    if not copied or (left and not partial):
        raise ConfigError(
            f"KD.INHERIT {parts}: {len(left)} of {len(members)} tensors are missing in the teacher or have another shape "
            f"there ({', '.join(left[:3])}); KD.INHERIT_PARTIAL True leaves them out"
        )
    with torch.no_grad():
        for name in copied:
            own[name].copy_(source[name])
    return Inherited(copied, left)


def _part(name: str, body: str, names: Collection[str]) -> str:
    if not name.startswith("backbone."):
        return "head"
    pyramid = any(other.startswith(body) for other in names)
    return "neck" if pyramid and not name.startswith(body) else "backbone"
