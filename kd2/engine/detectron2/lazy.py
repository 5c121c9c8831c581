"""LazyConfig files of Detectron2: Python that describes a model and, where it likes, its training.

The model is built as the file says; mapper, schedule and rates by layer, which only a file can say, are taken from it.
Its other settings are those of ``lazy_keys``.
"""

import functools
import os
from typing import Any

from detectron2.config import CfgNode, LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.detectron2 import projects, zoo
from kd2.engine.permission import require_code

_RATES = ("lr_factor_func", "overrides")


def lazy_config(cfg: CfgNode) -> DictConfig | None:
    """What the file of ``MODEL.LAZY_CONFIG`` describes, with ``MODEL.LAZY_OVERRIDES``; None without such a file.

    Raises:
        ConfigError: code is not allowed; the file fails or describes no model; an override that does not apply.
    """
    name = cfg.MODEL.LAZY_CONFIG
    if not name:
        return None
    path = name if os.path.isfile(name) else zoo.config_path(name, "MODEL.LAZY_CONFIG")
    require_code(path)
    return _loaded(path, tuple(cfg.MODEL.LAZY_OVERRIDES))


@functools.lru_cache
def _loaded(path: str, overrides: tuple[str, ...]) -> DictConfig:
    projects.model_zoo()  # such files import it
    try:
        lazy = LazyConfig.load(path)
    except Exception as error:  # whatever a user's file raises
        raise ConfigError(f"MODEL.LAZY_CONFIG: {path}: {_told(error)}") from error
    try:
        lazy = LazyConfig.apply_overrides(lazy, list(overrides))
    except Exception as error:  # the parser's own kinds
        raise ConfigError(f"MODEL.LAZY_OVERRIDES is {list(overrides)}: {_told(error)}") from None
    if at(lazy, "model._target_") is None:
        raise ConfigError(f"MODEL.LAZY_CONFIG: {path} describes no model; expected model = LazyCall(...)(...)")
    return lazy


def build_model(cfg: CfgNode) -> nn.Module:
    """The model of a file; raises ConfigError for one that cannot be built, or is none of Detectron2's kind."""
    lazy = lazy_config(cfg)
    assert lazy is not None, "the config names a file"
    try:
        model = instantiate(lazy.model)
    except Exception as error:  # whatever a user's file raises
        raise ConfigError(f"MODEL.LAZY_CONFIG: {cfg.MODEL.LAZY_CONFIG}: model: {_told(error)}") from error
    if not isinstance(model, nn.Module) or not hasattr(model, "backbone"):
        raise ConfigError(
            f"MODEL.LAZY_CONFIG: {cfg.MODEL.LAZY_CONFIG}: model is {type(model).__name__}, expected a model of "
            "Detectron2 with a backbone"
        )
    return model


def mapper_options(cfg: CfgNode, split: str) -> dict[str, Any] | None:
    """The arguments of Detectron2's ``DatasetMapper`` by a file, but ``is_train``; None where no file has a mapper.

    Args:
        split: ``train`` or ``test``.
    """
    lazy = lazy_config(cfg)
    mapper = None if lazy is None else at(lazy, f"dataloader.{split}.mapper")
    if mapper is None:
        return None
    options = {key: value for key, value in instantiate_parts(mapper).items() if key != "is_train"}
    return options | {"image_format": cfg.INPUT.FORMAT}


def rate_options(cfg: CfgNode) -> dict[str, Any]:
    """What a file says of single parameters: ``lr_factor_func`` and ``overrides`` of Detectron2's groups."""
    lazy = lazy_config(cfg)
    params = None if lazy is None else at(lazy, "optimizer.params")
    return {} if params is None else {k: v for k, v in instantiate_parts(params).items() if k in _RATES}


def multiplier(cfg: CfgNode) -> Any:
    """The schedule of a file, a ``ParamScheduler`` of fvcore; None where no file has one."""
    lazy = lazy_config(cfg)
    node = None if lazy is None else at(lazy, "lr_multiplier")
    return None if node is None else instantiate(node)


def save_student(cfg: CfgNode, weights: str, path: str) -> None:
    """Write ``model`` of a file and ``train.init_checkpoint`` as YAML that Detectron2's ``LazyConfig.load`` reads.

    What YAML cannot hold, such as a lambda, Detectron2 pickles beside it and says so.
    """
    lazy = lazy_config(cfg)
    assert lazy is not None, "the config names a file"
    student = DictConfig({"model": lazy.model, "train": {"init_checkpoint": weights}}, flags={"allow_objects": True})
    LazyConfig.save(student, path)


def instantiate_parts(node: DictConfig) -> dict[str, Any]:
    """The arguments of a call, each built; lists and dicts are plain ones."""
    built = {key: instantiate(value) for key, value in node.items() if key != "_target_"}
    plain = (DictConfig, ListConfig)
    return {k: OmegaConf.to_container(v, resolve=True) if isinstance(v, plain) else v for k, v in built.items()}


def class_counts(cfg: CfgNode) -> dict[str, tuple[str, int]]:
    """Place and class count of the heads that a file describes, see ``models.class_keys``."""
    lazy, found = lazy_config(cfg), {}
    for kind, owner in (("things", "model"), ("things", "model.roi_heads"), ("stuff", "model.sem_seg_head")):
        count = None if lazy is None else at(lazy, f"{owner}.num_classes")
        if count is not None:
            found[kind] = (f"{owner}.num_classes", count)
    return found


def at(lazy: DictConfig, place: str) -> Any:
    """What stands at a place such as ``model.roi_heads``; None where there is none."""
    return OmegaConf.select(lazy, place, default=None, throw_on_missing=False)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
