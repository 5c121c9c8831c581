"""A model, student or teacher, as the builder of a distiller wants it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kd2.distill import Probe


@dataclass(frozen=True)
class BuiltModel:
    """A model, student or teacher, as the builder wants it.

    Attributes:
        module: the network.
        probe: one full forward pass on a blank batch, and that batch's size.
        taps: as texts; ``taps_key`` is the config key that gave them, for errors.
        classes: kind of class (``things``, ``stuff``, ``images``) -> config key of their number, and the number.
        names: kind -> their names in order, as far as they are known; ``names_key`` is what gave them, for errors.
        color_order: RGB or BGR.
        matched: matched part of its weights in the file they came from, 0 to 1; None where there was no file.
        facts: more lines for the report of a dry run.
    """

    module: nn.Module
    probe: Probe
    taps: Sequence[str]
    taps_key: str
    classes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    color_order: str = "RGB"
    matched: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names_key: str = ""
