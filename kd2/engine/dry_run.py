"""One batch through a configured pair of models: what preflight and the step benchmark work on."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kd2.distill import Distiller


@dataclass(frozen=True)
class Trial:
    """A distiller in train mode on its device, one training batch there, and facts for the report.

    Attributes:
        arrive: brings the loader's batch to the device as every training step does, mixing included; a batch each call.
        facts: name -> (student's, teacher's); None where a side has none: classes, color order, matched weights, ...
    """

    distiller: Distiller
    arrive: Callable[[], Any]
    facts: dict[str, tuple[Any, Any]]

    @functools.cached_property
    def batch(self) -> Any:
        """One and the same batch on the device."""
        return self.arrive()
