"""Checkpoints on the road of Detectron2: its own files and conversions of names, read without running code."""

from typing import Any

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.catalog import ModelCatalog
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.weights.checkpoint import read_checkpoint
from kd2.engine.weights.matching import Match, differences
from kd2.engine.weights.schema import weights

# Buffers that older files hold; models take them from the config now.
_CONFIGURED = ("pixel_mean", "pixel_std")
# What Detectron2 puts behind an address whose names it is to match by heuristics.
_HEURISTICS = "?matching_heuristics=True"


class CheckedCheckpointer(DetectionCheckpointer):
    """Loads what Detectron2 loads, its name conversions included, or says why not. No code of a file runs.

    Args:
        model: receives the weights.
        key: the config key that names the file, for errors.
        partial: whether less than an exact match is accepted; a file without any match never is.

    Attributes:
        match: how the last file met the model.
    """

    def __init__(self, model: nn.Module, key: str, partial: bool = False):
        super().__init__(model)
        self.key, self.partial = key, partial
        self.match: Match | None = None
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a path or URL; raises ConfigError for a file that is missing, broken or does not fit the model.

        Returns:
            What the file holds beside the weights.
        """
        self._source = _address(path.removesuffix(_HEURISTICS), self.key)
        content = _with_names(read_checkpoint(self._source, self.key), f"{self.key}: {path}")
        if path.endswith(_HEURISTICS):
            content["matching_heuristics"] = True
        self._log_incompatible_keys(self._load_model(content))
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        other = differences(checkpoint["model"], self.model.state_dict())
        checkpoint["model"] = {name: value for name, value in checkpoint["model"].items() if name not in other}
        incompatible = super()._load_model(checkpoint)
        missing = set(incompatible.missing_keys)
        own = self.model.state_dict()
        self.match = Match(self.model, {name: value for name, value in own.items() if name not in missing})
        self.match.shapes = other | {name: (found, wanted) for name, found, wanted in incompatible.incorrect_shapes}
        self.match.missing = [name for name in self.match.missing if name not in self.match.shapes]
        self.match.unexpected = [name for name in incompatible.unexpected_keys if name not in _CONFIGURED]
        exact = self.match.matched == 1 and not self.match.unexpected
        if self.match.matched == 0 or not (exact or self.partial):
            raise ConfigError(f"{self.key}: {self._source} does not fit the model: {self.match.text()}")
        return incompatible


def _address(name: str, key: str) -> str:
    """What ``local_file`` takes; names of Detectron2's catalog become URLs."""
    scheme, found, rest = name.partition("://")
    if found and scheme == "catalog":
        try:
            return ModelCatalog.get(rest)
        except (RuntimeError, KeyError):
            raise ConfigError(f"{key}: Detectron2's catalog has no {name!r}") from None
    return name


def _with_names(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a file as Detectron2's own checkpointer has it: from its zoo, pycls, Caffe2 or a bare state dict.

    Those of pycls and Caffe2 have other names, which it matches by heuristics.
    """
    if "model" in content:
        return content
    if "model_state" in content:
        state = weights(content["model_state"], f"{where}: model_state")
        kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        return {"model": kept, "__author__": "pycls", "matching_heuristics": True}
    blobs = content.get("blobs", content)
    arrays = isinstance(blobs, dict) and any(isinstance(value, np.ndarray) for value in blobs.values())
    state = weights(blobs, where)
    if not arrays:
        return {"model": state}
    kept = {name: value for name, value in state.items() if not name.endswith("_momentum")}
    return {"model": kept, "__author__": "Caffe2", "matching_heuristics": True}
