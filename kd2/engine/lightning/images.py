"""What detection and segmentation data have in common: reading, resizing, flips, class lists."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torchvision import tv_tensors
from torchvision.transforms import v2

from kd2.data.images import read_record_image
from kd2.distill import ConfigError


def record_image(record: dict, pixel_range: Sequence[float]) -> tv_tensors.Image:
    """The upright RGB image of a record, uint8 (3, H, W); raises DataError, see ``read_record_image``."""
    return tv_tensors.Image(torch.from_numpy(read_record_image(record, pixel_range)).permute(2, 0, 1))


def resizing(cfg: CfgNode) -> v2.Transform:
    """Resizing to ``INPUT.MIN_SIZE_TRAIN``, a choice of sizes or any size in their range.

    Raises:
        ConfigError: there is no size.
    """
    sizes = list(cfg.INPUT.MIN_SIZE_TRAIN)
    if not sizes:
        raise ConfigError("INPUT.MIN_SIZE_TRAIN is empty, expected a list of sizes such as [800]")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = list(range(min(sizes), max(sizes) + 1))
    return v2.RandomShortestSize(sizes, cfg.INPUT.MAX_SIZE_TRAIN, antialias=True)


def flips(cfg: CfgNode) -> list[v2.Transform]:
    """What ``INPUT.RANDOM_FLIP`` asks for: horizontal, vertical or none."""
    known = {"horizontal": [v2.RandomHorizontalFlip()], "vertical": [v2.RandomVerticalFlip()], "none": []}
    return known[cfg.INPUT.RANDOM_FLIP]


def named(cfg: CfgNode, split: str, builtin: Iterable[str]) -> list[str]:
    """The names in ``DATASETS.TRAIN`` or ``DATASETS.TEST``; raises ConfigError when there are none."""
    if not cfg.DATASETS[split]:
        raise ConfigError(f"DATASETS.{split} is empty, expected names of DATASETS.CUSTOM or of {', '.join(builtin)}")
    return list(cfg.DATASETS[split])


def check_classes(data: list[Any], key: str, count: int) -> None:
    """Raises ConfigError when data sets differ in their classes, or in number from ``count`` of config key ``key``."""
    classes = data[0].classes
    for other in data[1:]:
        if other.classes != classes:
            raise ConfigError(f"DATASETS: {data[0].name} has the classes {classes}, {other.name} {other.classes}")
    if len(classes) != count:
        raise ConfigError(
            f"{key} is {count}, but {data[0].source} has {len(classes)} classes: {', '.join(classes[:10])}"
        )
