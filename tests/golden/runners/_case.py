"""One pair NAME.npz and NAME.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd2.distill import DataError


@dataclass(frozen=True)
class Case:
    """The arrays of a case by name, and what its json says of them."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, Tensor]

    @classmethod
    def load(cls, stem: Path) -> "Case":
        """Read the pair of this path without suffix. Raises DataError when half of it is missing."""
        files = {suffix: stem.with_name(f"{stem.name}.{suffix}") for suffix in ("json", "npz")}
        for file in files.values():
            if not file.is_file():
                raise DataError(f"{file} is missing, the other half of the pair is there")
        with np.load(files["npz"]) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
        return cls(str(stem), json.loads(files["json"].read_text()), arrays)

    @property
    def method(self) -> str:
        return self.meta["method"]

    @property
    def options(self) -> dict[str, Any]:
        return self.meta["hyper_parameters"]

    @property
    def checked(self) -> dict[str, Tensor]:
        """The stored outputs and gradients that must be reproduced. Raises DataError when there is none."""
        informative = self.meta.get("informative_only", ())
        wanted = {k: v for k, v in self.arrays.items() if k.startswith(("out.", "grad.")) and k not in informative}
        if not wanted:
            raise DataError(f"{self.name} stores nothing to check")
        return wanted

    def leaf(self, name: str) -> Tensor:
        """A copy of an array that collects its gradient."""
        return self.arrays[name].clone().requires_grad_()
