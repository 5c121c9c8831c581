"""Detectron2 checkpoints: read without running code, checked against the model, written all or nothing."""

import logging
import os
import pickle
from typing import Any
from urllib.parse import urlparse

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from kd2.engine.checkpoint import Match, check_file, read_checkpoint, save_atomically, tag_last_checkpoint
from kd2.distill import ConfigError

logger = logging.getLogger(__name__)
# Buffers that older files hold; models take them from the config now.
_CONFIGURED = ("pixel_mean", "pixel_std")


class CheckedCheckpointer(DetectionCheckpointer):
    """Loads what Detectron2 loads, its name conversions included, or says why not.

    Args:
        model: receives the weights.
        key: the config key that names the file, for errors.
        allow_pickle: see ``KD.ALLOW_PICKLE``.
        partial: whether less than an exact match is accepted; a file without any match never is.

    Attributes:
        match: how the last file met the model.
    """

    def __init__(
        self,
        model: nn.Module,
        key: str,
        allow_pickle: bool = False,
        partial: bool = False,
        save_dir: str = "",
        **extras: Any,
    ):
        super().__init__(model, save_dir, **extras)
        self.key, self.allow_pickle, self.partial = key, allow_pickle, partial
        self.match: Match | None = None
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a path or URL; raises ConfigError for a file that is missing, broken or does not fit the model."""
        self._source = path
        if path and not urlparse(path).scheme:
            check_file(urlparse(path).path, self.key)
        try:
            return super().load(path, checkpointables)
        except OSError as error:
            raise ConfigError(f"{self.key}: {path} could not be fetched: {error}") from None

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith((".pkl", ".pyth")):
            return super()._load_file(filename)
        if not self.allow_pickle:
            raise ConfigError(
                f"{self.key}: {self._source} is a pickle, which can run code when loaded; "
                "set KD.ALLOW_PICKLE True only for a file you trust"
            )
        try:
            return super()._load_file(filename)
        except (pickle.UnpicklingError, EOFError, RuntimeError, AssertionError) as error:
            raise ConfigError(f"{self.key}: {self._source} is truncated or no checkpoint ({error})") from None

    def _torch_load(self, f: str) -> dict[str, Any]:
        return read_checkpoint(f, self.key)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        try:
            incompatible = super()._load_model(checkpoint)
        except (ValueError, AttributeError) as error:  # entries that are no tensors
            raise ConfigError(f"{self.key}: {self._source} holds no model weights ({error})") from None
        missing = set(incompatible.missing_keys)
        own = self.model.state_dict()
        self.match = Match(self.model, {name: value for name, value in own.items() if name not in missing})
        self.match.shapes = {name: (found, wanted) for name, found, wanted in incompatible.incorrect_shapes}
        self.match.missing = [name for name in self.match.missing if name not in self.match.shapes]
        self.match.unexpected = [name for name in incompatible.unexpected_keys if name not in _CONFIGURED]
        exact = self.match.share == 1 and not self.match.unexpected
        if self.match.share == 0 or not (exact or self.partial):
            raise ConfigError(f"{self.key}: {self._source} does not fit the model: {self.match.text()}")
        logger.info("%s %s: %s", self.key, self._source, self.match.text())
        return incompatible


class StudentCheckpointer(CheckedCheckpointer):
    """Checkpoints of a run: the student under its own key names, the adapters apart, then the trainer's state.

    Args:
        student: initialized from ``MODEL.WEIGHTS`` (in part, when it is a backbone), restored whole when resuming.
        losses: the losses' modules; they hold the adapters.
        save_dir: ``OUTPUT_DIR``.
        extras: further objects with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self, student: nn.Module, losses: nn.Module, save_dir: str, allow_pickle: bool, **extras: Any):
        super().__init__(student, "MODEL.WEIGHTS", allow_pickle, True, save_dir, adapters=losses, **extras)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With ``resume`` everything of the last checkpoint, if there is one; otherwise the student from ``path``."""
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        self.key, self.partial = "--resume", False
        last = self.get_checkpoint_file()
        try:
            return self.load(last)
        except (RuntimeError, KeyError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"--resume: {last} is of a run with other losses or optimizer: {error}") from None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth into the output folder and tag it as the last. An error leaves the older files alone."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: thing.state_dict() for key, thing in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        save_atomically({"model": self.model.state_dict(), **states, **kwargs}, path)
        tag_last_checkpoint(path)
