"""LazyConfig files of Detectron2: Python that describes a model and, where it likes, its training.

The model is built as the file says. What else the file has becomes the default of the key that means the same, so that
the rest of a config may say otherwise; what only a file can say (mapper, schedule, rates by layer) is taken from it.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.solver import get_default_optimizer_params
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from kd2.config import merge
from kd2.config.merging import leaves
from kd2.config.paths import found_path
from kd2.distill import ConfigError
from kd2.engine.detectron2 import projects, zoo
from kd2.engine.permission import require_code

# Place in a file -> the key that means the same. Of two places the last one that is there counts.
_SAME = {
    "train.output_dir": "OUTPUT_DIR",
    "train.init_checkpoint": "MODEL.WEIGHTS",
    "train.max_iter": "SOLVER.MAX_ITER",
    "train.amp.enabled": "SOLVER.AMP.ENABLED",
    "train.checkpointer.period": "SOLVER.CHECKPOINT_PERIOD",
    "train.checkpointer.max_to_keep": "SOLVER.KEEP_CHECKPOINTS",
    "train.eval_period": "TEST.EVAL_PERIOD",
    "dataloader.train.dataset.names": "DATASETS.TRAIN",
    "dataloader.train.dataset.filter_empty": "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "dataloader.train.dataset.min_keypoints": "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
    "dataloader.train.total_batch_size": "SOLVER.IMS_PER_BATCH",
    "dataloader.train.num_workers": "DATALOADER.NUM_WORKERS",
    "dataloader.train.aspect_ratio_grouping": "DATALOADER.ASPECT_RATIO_GROUPING",
    "dataloader.train.mapper.image_format": "INPUT.FORMAT",
    "dataloader.test.dataset.names": "DATASETS.TEST",
    "optimizer.lr": "SOLVER.BASE_LR",
    "optimizer.momentum": "SOLVER.MOMENTUM",
    "optimizer.nesterov": "SOLVER.NESTEROV",
    "optimizer.weight_decay": "SOLVER.WEIGHT_DECAY",
    "optimizer.params.weight_decay_norm": "SOLVER.WEIGHT_DECAY_NORM",
    "optimizer.params.weight_decay_bias": "SOLVER.WEIGHT_DECAY_BIAS",
    "optimizer.params.bias_lr_factor": "SOLVER.BIAS_LR_FACTOR",
    "model.input_format": "INPUT.FORMAT",
    "model.pixel_mean": "MODEL.PIXEL_MEAN",
    "model.pixel_std": "MODEL.PIXEL_STD",
    "model.roi_heads.keypoint_head.num_keypoints": "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
}
# Place in a file -> what may stand there, and the keys (but for some) that nobody reads beside it.
_CALLS = {
    "dataloader.train": build_detection_train_loader,
    "dataloader.train.dataset": get_detection_dataset_dicts,
    "dataloader.train.mapper": DatasetMapper,
    "dataloader.test.mapper": DatasetMapper,
    "optimizer.params": get_default_optimizer_params,
}
_SCHEDULE = """LR_SCHEDULER_NAME STEPS GAMMA NUM_DECAYS WARMUP_FACTOR WARMUP_ITERS WARMUP_METHOD RESCALE_INTERVAL
    BASE_LR_END POLY_LR_POWER POLY_LR_CONSTANT_ENDING"""
_INSTEAD: dict[str, tuple[str, ...]] = {
    "model": ("MODEL",),
    "dataloader.train.mapper": ("INPUT",),
    "lr_multiplier": tuple(f"SOLVER.{key}" for key in _SCHEDULE.split()),
}
_STILL_READ = ("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.LAZY_CONFIG", "MODEL.LAZY_OVERRIDES", "INPUT.PIXEL_RANGE")
_LOADER = ("_target_", "dataset", "mapper", "total_batch_size", "num_workers", "aspect_ratio_grouping")
_RATES = ("lr_factor_func", "overrides")
_OF_GROUPS = ("_target_", "params", "lr", "momentum", "nesterov", "weight_decay")


def set_defaults(cfg: CfgNode, loaded: Mapping[str, Any], config_file: str) -> CfgNode:
    """Put the settings of the file that ``loaded`` names in ``MODEL.LAZY_CONFIG`` into the defaults ``cfg``.

    Args:
        loaded: what ``kd2.config.read`` gave of ``config_file``; without that key nothing changes.

    Returns:
        ``cfg``.

    Raises:
        ConfigError: no such file, or one that fails; code that is not allowed; a part that no key and no place of kd2
            takes; a key that would not be read beside the file.
    """
    model = loaded.get("MODEL")
    name = model.get("LAZY_CONFIG") if isinstance(model, Mapping) else None
    if not name or not isinstance(name, str):
        return cfg
    merge(cfg, {"MODEL": {"LAZY_OVERRIDES": model.get("LAZY_OVERRIDES", [])}})
    cfg.MODEL.LAZY_CONFIG = found_path(name, config_file) or name
    lazy = lazy_config(cfg)
    assert lazy is not None, "a file is named"
    for key, value in _settings(lazy, cfg.MODEL.LAZY_CONFIG):
        merge(cfg, functools.reduce(lambda below, part: {part: below}, reversed(key.split(".")), value))
    for place, keys in _INSTEAD.items():
        for key, _ in leaves(loaded) if _at(lazy, place) is not None else ():
            if key not in _STILL_READ and any(key == x or key.startswith(f"{x}.") for x in keys):
                raise ConfigError(
                    f"{key} is given, but {place} of {cfg.MODEL.LAZY_CONFIG} decides it; change it there, or with "
                    f"MODEL.LAZY_OVERRIDES such as [{place}.NAME=VALUE]"
                )
    return cfg


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
    if _at(lazy, "model._target_") is None:
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
    mapper = None if lazy is None else _at(lazy, f"dataloader.{split}.mapper")
    if mapper is None:
        return None
    options = {key: value for key, value in instantiate_parts(mapper).items() if key != "is_train"}
    return options | {"image_format": cfg.INPUT.FORMAT}


def rate_options(cfg: CfgNode) -> dict[str, Any]:
    """What a file says of single parameters: ``lr_factor_func`` and ``overrides`` of Detectron2's groups."""
    lazy = lazy_config(cfg)
    params = None if lazy is None else _at(lazy, "optimizer.params")
    return {} if params is None else {k: v for k, v in instantiate_parts(params).items() if k in _RATES}


def multiplier(cfg: CfgNode) -> Any:
    """The schedule of a file, a ``ParamScheduler`` of fvcore; None where no file has one."""
    lazy = lazy_config(cfg)
    node = None if lazy is None else _at(lazy, "lr_multiplier")
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
        count = None if lazy is None else _at(lazy, f"{owner}.num_classes")
        if count is not None:
            found[kind] = (f"{owner}.num_classes", count)
    return found


def _settings(lazy: DictConfig, path: str) -> Iterator[tuple[str, Any]]:
    """Keys and values by a file."""
    _check_calls(lazy, path)
    yield "MODEL.META_ARCHITECTURE", _name(lazy.model._target_)
    for part in ("mask", "keypoint"):
        yield f"MODEL.{part.upper()}_ON", _at(lazy, f"model.roi_heads.{part}_in_features") is not None
    for place, key in _SAME.items():
        value = _at(lazy, place)
        if value is not None:
            value = list(value) if isinstance(value, (ListConfig, tuple)) else value
            yield key, [value] if key.startswith("DATASETS") and isinstance(value, str) else value
    optimizer = _at(lazy, "optimizer")
    if optimizer is not None:
        yield "SOLVER.OPTIMIZER", _name(optimizer._target_)
        more = {key: value for key, value in optimizer.items() if key not in _OF_GROUPS}
        yield "SOLVER.OPTIMIZER_ARGS", OmegaConf.to_container(DictConfig(more))


def _check_calls(lazy: DictConfig, path: str) -> None:
    """Raises ConfigError for parts of the training that kd2 would not do as the file says."""
    for place, wanted in _CALLS.items():
        target = _at(lazy, f"{place}._target_")
        if target is not None and _name(target) != wanted.__name__:
            raise ConfigError(f"{path}: {place} calls {_name(target)}, expected Detectron2's {wanted.__name__}")
    loader = _at(lazy, "dataloader.train")
    for key in loader or ():
        if key not in _LOADER and loader[key] is not None:
            raise ConfigError(
                f"{path}: dataloader.train.{key} is given, expected only {', '.join(_LOADER[1:])}; give the keys of "
                f"DATALOADER that say the same, and MODEL.LAZY_OVERRIDES: [dataloader.train.{key}=null]"
            )


def _at(lazy: DictConfig, place: str) -> Any:
    """What stands at a place such as ``model.roi_heads``; None where there is none."""
    return OmegaConf.select(lazy, place, default=None, throw_on_missing=False)


def _name(target: Any) -> str:
    return target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", str(target))


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
