"""One batch through a configured pair of models: what preflight and the step benchmark work on."""

from dataclasses import dataclass
from typing import Any

from kd2.core import Distiller


@dataclass(frozen=True)
class Trial:
    """A distiller in train mode on its device, one training batch there, and facts for the report.

    Attributes:
        facts: name -> (student's, teacher's); None where a side has none: classes, colour order, matched weights, ...
    """

    distiller: Distiller
    batch: Any
    facts: dict[str, tuple[Any, Any]]
