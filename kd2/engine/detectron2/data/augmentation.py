"""What ``INPUT`` can ask for beside Detectron2's own keys, made of Detectron2's augmentations."""

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from kd2.config import train_size

Augmentations = list[T.Augmentation | T.Transform]


def with_jitter(cfg: CfgNode, augmentations: Augmentations, pad: bool) -> Augmentations:
    """Those of training with ``INPUT.COLOR_JITTER`` before them, and ``INPUT.SCALE_JITTER`` in place of the resizing.

    Args:
        pad: whether the jitter pads small images, and labels of their pixels; Detectron2 would mark what it pads of
            an object's mask as the object.
    """
    jitter = cfg.INPUT.SCALE_JITTER
    if not jitter.ENABLED:
        return [*_colors(cfg), *augmentations]
    size = train_size(cfg)
    sizing = [T.ResizeScale(*jitter.RANGE, *size), T.FixedSizeCrop(size, pad, gray_of(cfg))]
    return [*_colors(cfg), *sizing, *(x for x in augmentations if not isinstance(x, T.ResizeShortestEdge))]


def gray_of(cfg: CfgNode) -> int:
    """The mean of ``MODEL.PIXEL_MEAN``, which pads images."""
    return round(sum(cfg.MODEL.PIXEL_MEAN) / len(cfg.MODEL.PIXEL_MEAN))


def _colors(cfg: CfgNode) -> Augmentations:
    jitter = cfg.INPUT.COLOR_JITTER
    kinds = {
        T.RandomBrightness: jitter.BRIGHTNESS,
        T.RandomContrast: jitter.CONTRAST,
        T.RandomSaturation: jitter.SATURATION,
    }
    found = [kind(1 - amount, 1 + amount) for kind, amount in kinds.items() if amount]
    # Detectron2's RandomSaturation weighs red, green and blue in this order.
    turn = [T.ColorTransform(_turned)] if found and cfg.INPUT.FORMAT == "BGR" else []
    return [*turn, *found, *turn]


def _turned(image: np.ndarray) -> np.ndarray:
    return image[:, :, ::-1]
