"""LazyConfig files of Detectron2 and the keys of kd2: what a file sets, and what it decides alone.

What a file has beside model, mapper and schedule becomes the default of the key that means the same, so that the rest
of a config may say otherwise.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.solver import get_default_optimizer_params
from omegaconf import DictConfig, ListConfig, OmegaConf

from kd2.config import merge
from kd2.config.merging import leaves
from kd2.config.paths import found_path
from kd2.distill import ConfigError
from kd2.engine.detectron2.lazy import at, lazy_config

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
    "dataloader.test.mapper": ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    "lr_multiplier": tuple(f"SOLVER.{key}" for key in _SCHEDULE.split()),
}
_STILL_READ = (
    "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.EMA", "MODEL.LAZY_CONFIG", "MODEL.LAZY_OVERRIDES", "INPUT.PIXEL_RANGE"
)  # fmt: skip
_LOADER = ("_target_", "dataset", "mapper", "total_batch_size", "num_workers", "aspect_ratio_grouping")
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
    for key, _ in leaves(loaded):
        place = _decider(lazy, key)
        if place:
            raise ConfigError(
                f"{key} is given, but {place} of {cfg.MODEL.LAZY_CONFIG} decides it; change it there, or with "
                f"MODEL.LAZY_OVERRIDES such as [{place}.NAME=VALUE]"
            )
    return cfg


def without_decided(cfg: CfgNode) -> CfgNode:
    """A copy without the keys that the file decides, which a config beside that file must not give."""
    lazy, kept = lazy_config(cfg), cfg.clone()
    kept.defrost()
    if lazy is not None:
        _drop(kept, lambda key: _decider(lazy, key) is not None)
    return kept


def _settings(lazy: DictConfig, path: str) -> Iterator[tuple[str, Any]]:
    """Keys and values by a file."""
    _check_calls(lazy, path)
    yield "MODEL.META_ARCHITECTURE", _name(lazy.model._target_)
    for part in ("mask", "keypoint"):
        yield f"MODEL.{part.upper()}_ON", at(lazy, f"model.roi_heads.{part}_in_features") is not None
    for place, key in _SAME.items():
        value = at(lazy, place)
        if value is not None:
            value = list(value) if isinstance(value, (ListConfig, tuple)) else value
            yield key, [value] if key.startswith("DATASETS") and isinstance(value, str) else value
    optimizer = at(lazy, "optimizer")
    if optimizer is not None:
        yield "SOLVER.OPTIMIZER", _name(optimizer._target_)
        more = {key: value for key, value in optimizer.items() if key not in _OF_GROUPS}
        yield "SOLVER.OPTIMIZER_ARGS", OmegaConf.to_container(DictConfig(more))


def _check_calls(lazy: DictConfig, path: str) -> None:
    """Raises ConfigError for parts of the training that kd2 would not do as the file says."""
    for place, wanted in _CALLS.items():
        target = at(lazy, f"{place}._target_")
        if target is not None and _name(target) != wanted.__name__:
            raise ConfigError(f"{path}: {place} calls {_name(target)}, expected Detectron2's {wanted.__name__}")
    loader = at(lazy, "dataloader.train")
    for key in loader or ():
        if key not in _LOADER and loader[key] is not None:
            raise ConfigError(
                f"{path}: dataloader.train.{key} is given, expected only {', '.join(_LOADER[1:])}; give the keys of "
                f"DATALOADER that say the same, and MODEL.LAZY_OVERRIDES: [dataloader.train.{key}=null]"
            )


def _drop(node: CfgNode, unwanted: Callable[[str], bool], prefix: str = "") -> None:
    """Delete keys, and the groups that have no other."""
    for name, value in list(node.items()):
        key = f"{prefix}{name}"
        if isinstance(value, CfgNode) and value:
            _drop(value, unwanted, f"{key}.")
            if not value:
                del node[name]
        elif unwanted(key):
            del node[name]


def _decider(lazy: DictConfig, key: str) -> str | None:
    """The place of a file that decides a key; None where the key is read."""
    if _below(key, _STILL_READ):
        return None
    return next((place for place, keys in _INSTEAD.items() if at(lazy, place) is not None and _below(key, keys)), None)


def _below(key: str, nodes: Iterable[str]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def _name(target: Any) -> str:
    return target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", str(target))
