"""Every private or version-dependent corner of Detectron2 and of the packages that its evaluation needs."""

import functools
import importlib
import importlib.resources
import importlib.util
import logging
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, defaults
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss_jit
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import Sampler

from kd2.distill import ConfigError, NaNMonitor, NonFiniteLoss
from kd2.engine.checkpoint import Match, check_file, read_checkpoint
from kd2.losses import active_losses

logger = logging.getLogger(__name__)

# Buffers that older files hold; models take them from the config now.
_CONFIGURED = ("pixel_mean", "pixel_std")
_CITYSCAPES = ("deeplearning", "deeplearning.projects", "deeplearning.projects.cityscapesApi")
_PIXELS, _INSTANCES = "evalPixelLevelSemanticLabeling", "evalInstanceLevelSemanticLabeling"


def announce_plain_builds() -> None:
    """Make Detectron2's ``build_model`` say so where a config has losses and names a plain student: nothing distills.

    What it builds stays the same. It looks the registry up when it is called, so scripts that imported it before are
    told too. The engine itself asks ``META_ARCH_REGISTRY``.
    """
    importlib.import_module("detectron2.modeling.meta_arch.build").META_ARCH_REGISTRY = types.SimpleNamespace(
        get=lambda name: functools.partial(_announced, name)
    )


def _announced(name: str, cfg: CfgNode) -> nn.Module:
    if name != "Distiller" and active_losses(cfg.get("KD", {}).get("LOSSES", {})):
        logger.warning(
            "KD.LOSSES: build_model makes the plain student %s, nothing distills; to train by these losses give it the "
            "config kd2.engine.detectron2.distill_cfg(cfg)",
            name,
        )
    return META_ARCH_REGISTRY.get(name)(cfg)


class RunningNumbers:
    """Plain numbers outside the state dict that a model changes in training: RetinaNet's running loss normalizer."""

    def __init__(self, model: nn.Module):
        self._modules = dict(model.named_modules())
        self._before = {path: _numbers(module) for path, module in self._modules.items()}

    def changed(self) -> dict[str, dict[str, float]]:
        """``{module path: {attribute: number}}`` of those that changed since this object was made."""
        found = {
            path: {k: v for k, v in _numbers(module).items() if self._before[path].get(k) != v}
            for path, module in self._modules.items()
        }
        return {path: numbers for path, numbers in found.items() if numbers}

    def restore(self, changed: dict[str, dict[str, float]]) -> None:
        """Set what ``changed`` gave."""
        for path, numbers in changed.items():
            vars(self._modules[path]).update(numbers)


def _numbers(module: nn.Module) -> dict[str, float]:
    return {name: value for name, value in vars(module).items() if type(value) in (int, float)}


def warm_up() -> None:
    """Run Detectron2's compiled focal loss past its first call, whose gradients differ from later ones in the last bit.

    A run that is resumed has that call behind it.
    """
    for _ in range(2):
        x = torch.zeros(1, 1, requires_grad=True)
        sigmoid_focal_loss_jit(x, torch.zeros(1, 1), alpha=0.25, gamma=2.0, reduction="sum").backward()


def set_precision(cfg: CfgNode) -> None:
    """Follow ``FLOAT32_PRECISION`` in versions of Detectron2 that have the key."""
    if cfg.get("FLOAT32_PRECISION"):
        defaults._set_float32_precision(cfg.FLOAT32_PRECISION)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """The groups of ``model`` by the keys of ``SOLVER``, as Detectron2's own ``build_optimizer`` makes them."""
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )


def endless_order(sampler: Sampler) -> Callable[[], Iterator[int]]:
    """The indices of a sampler of Detectron2 before it deals them out to the processes."""
    return sampler._infinite_indices


def name_losses(trainer: DefaultTrainer) -> None:
    """Let a trainer stop with NonFiniteLoss at a loss that is not finite, before the step changes any weight.

    The distiller's stats are logged with its losses.
    """
    loop, write = trainer._trainer, trainer._trainer._write_metrics

    def write_named(losses: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        monitor = NaNMonitor()
        monitor.see(losses, loop.iter)
        try:
            write(losses, *args, **kwargs)
        except FloatingPointError:
            monitor.check()
            raise NonFiniteLoss(
                f"a loss of another process became NaN or infinite at iteration {loop.iter}; "
                "the last checkpoint is kept"
            ) from None
        get_event_storage().put_scalars(cur_iter=loop.iter, **getattr(loop.model, "module", loop.model).stats)

    loop._write_metrics = write_named


def split_state(state: dict[str, Any]) -> dict[str, Any]:
    """A DefaultTrainer's state as the entries optimizer, scheduler, iteration and trainer of a checkpoint."""
    optimizer = state["_trainer"].pop("optimizer")
    return {
        "optimizer": optimizer,
        "scheduler": state["hooks"].pop("LRScheduler"),
        "iteration": state["iteration"],
        "trainer": state,
    }


def joined_state(content: dict[str, Any]) -> dict[str, Any]:
    """Undo ``split_state``; raises KeyError for a checkpoint without these entries."""
    state = content["trainer"]
    state["_trainer"]["optimizer"] = content["optimizer"]
    state["hooks"]["LRScheduler"] = content["scheduler"]
    return state


def last_results(trainer: DefaultTrainer) -> dict[str, Any]:
    """The nested results of a trainer's last evaluation; empty before the first and on other processes."""
    return getattr(trainer, "_last_eval_results", None) or {}


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

    def __init__(self, model: nn.Module, key: str, allow_pickle: bool = False, partial: bool = False):
        super().__init__(model)
        self.key, self.allow_pickle, self.partial = key, allow_pickle, partial
        self.match: Match | None = None
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a path or URL; raises ConfigError for a file that is missing, broken or does not fit the model.

        Returns:
            What the file holds beside the weights.
        """
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
        exact = self.match.matched == 1 and not self.match.unexpected
        if self.match.matched == 0 or not (exact or self.partial):
            raise ConfigError(f"{self.key}: {self._source} does not fit the model: {self.match.text()}")
        return incompatible


def model_zoo() -> types.ModuleType:
    """``detectron2.model_zoo``, which imports one function of a package that setuptools dropped: pkg_resources."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return importlib.import_module("detectron2.model_zoo")
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, path: str(importlib.resources.files(package) / path)
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("detectron2.model_zoo")
    finally:
        del sys.modules["pkg_resources"]  # others look whether the real one is there


def provide_cityscapes(key: str) -> None:
    """Let Detectron2's evaluators of Cityscapes find its public scripts and run them with any NumPy.

    Some versions of Detectron2 look for them in Meta's repository, below ``deeplearning.projects.cityscapesApi``. Only
    the names inside the scripts change: NumPy and its users are left alone.

    Raises:
        ConfigError: the package is not installed; names ``key``, which asks for it.
    """
    found = importlib.util.find_spec("cityscapesscripts")
    if found is None:
        raise ConfigError(f"{key}: the evaluation of Detectron2's Cityscapes needs the package cityscapesscripts")
    if _CITYSCAPES[0] not in sys.modules and importlib.util.find_spec(_CITYSCAPES[0]) is None:
        for name in _CITYSCAPES:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = []
        sys.modules[_CITYSCAPES[-1]].__path__ = [os.path.dirname(x) for x in found.submodule_search_locations]
    for prefix in ("", f"{_CITYSCAPES[-1]}."):
        pixels, instances = (
            importlib.import_module(f"{prefix}cityscapesscripts.evaluation.{name}") for name in (_PIXELS, _INSTANCES)
        )
        pixels.np = instances.np = _OlderNumPy("numpy")
        # Two files that nobody reads again, one of them in the working folder; NumPy's counts would not go into JSON.
        instances.writeDict2JSON = _write_nothing


class _OlderNumPy(types.ModuleType):
    """NumPy with ``in1d``, which the scripts call and NumPy 2.4 dropped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def in1d(values: ArrayLike, among: Iterable[int], invert: bool = False) -> np.ndarray:
        """Whether each of the flattened ``values`` is ``among`` these."""
        return np.isin(np.ravel(values), list(among), invert=invert)


def _write_nothing(_content: dict[str, Any], _path: str) -> None:
    pass
