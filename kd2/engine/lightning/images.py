"""What detection and segmentation data have in common: reading, augmentation, class lists."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from kd2.config import train_size
from kd2.data.images import read_record_image
from kd2.distill import ConfigError


def record_image(record: dict, pixel_range: Sequence[float]) -> tv_tensors.Image:
    """The upright RGB image of a record, uint8 (3, H, W); raises DataError, see ``read_record_image``."""
    return tv_tensors.Image(torch.from_numpy(read_record_image(record, pixel_range)).permute(2, 0, 1))


def augmentation(cfg: CfgNode) -> v2.Transform:
    """What training does to an image with its boxes, masks or labels: colors, size, crop, flips."""
    return v2.Compose([*_colors(cfg), *_sizing(cfg), *_flips(cfg)])


def check_resized(before: Sequence[int], after: Sequence[int]) -> None:
    """Refuse a resizing that leaves no row or column; sizes are (H, W).

    Raises:
        ValueError: ``mapped`` names the file.
    """
    if min(after) < 1:
        raise ValueError(
            f"its {before[1]} x {before[0]} pixels become {after[1]} x {after[0]} by the sizes of INPUT; leave it out"
        )


class _Checked:
    """A resizing of torchvision's that refuses what would leave nothing of an image."""

    def make_params(self, flat_inputs: list) -> dict[str, Any]:
        params = super().make_params(flat_inputs)  # type: ignore[misc]
        check_resized(flat_inputs[0].shape[-2:], params["size"])
        return params


class _ShortestSize(_Checked, v2.RandomShortestSize):
    """Resizing to one of several sizes."""


class _Jitter(_Checked, v2.ScaleJitter):
    """Resizing to a size times a random factor."""


class Crop(v2.Transform):
    """A random piece of at most ``size`` (H, W); smaller images stay whole, the batch is padded."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list) -> dict[str, int]:
        whole = flat_inputs[0].shape[-2:]
        height, width = (min(sides) for sides in zip(self.size, whole))
        top, left = (int(torch.randint(0, side - piece + 1, ())) for side, piece in zip(whole, (height, width)))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        return v2.functional.crop(inpt, **params)


def _colors(cfg: CfgNode) -> list[v2.Transform]:
    jitter = cfg.INPUT.COLOR_JITTER
    amounts = jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION
    return [v2.ColorJitter(*amounts)] if any(amounts) else []


def _sizing(cfg: CfgNode) -> list[v2.Transform]:
    size, jitter = train_size(cfg), cfg.INPUT.SCALE_JITTER
    # torchvision's jitter wants (width, height).
    resize = _Jitter(size[::-1], tuple(jitter.RANGE)) if jitter.ENABLED else _resizing(cfg)
    return [resize, *([Crop(size)] if size else [])]


def _resizing(cfg: CfgNode) -> v2.Transform:
    """Resizing to ``INPUT.MIN_SIZE_TRAIN``, a choice of sizes or any size in their range.

    Raises:
        ConfigError: there is no size.
    """
    sizes = list(cfg.INPUT.MIN_SIZE_TRAIN)
    if not sizes:
        raise ConfigError("INPUT.MIN_SIZE_TRAIN is empty, expected a list of sizes such as [800]")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = list(range(min(sizes), max(sizes) + 1))
    return _ShortestSize(sizes, cfg.INPUT.MAX_SIZE_TRAIN, antialias=True)


def _flips(cfg: CfgNode) -> list[v2.Transform]:
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
