"""What the words of the option REDUCTION mean, for every loss that has it."""

import functools
import operator
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, distributed

Reduction = Literal["mean", "pixel_mean", "channel_mean", "map_mean", "sum_per_image", "half_sum_per_image"]


def reduced(total: Tensor, reduction: Reduction, images: int, channels: int, pixels: int | Tensor) -> Tensor:
    """A sum over all elements of maps (N, C, H, W), divided as ``reduction`` says.

    - ``mean``: by all elements.
    - ``pixel_mean``: by all pixels; channels (or classes) are added.
    - ``channel_mean``: by all N * C channels; the cells of one are added.
    - ``map_mean``: by the pixels of one map; images and channels are added.
    - ``sum_per_image``: by the images alone.
    - ``half_sum_per_image``: by twice the images.

    Args:
        total: the sum, a scalar.
        images, channels: N and C.
        pixels: how many pixels of the whole batch count: N * H * W, or fewer where some are left out. With none the
            divisor is 1, and the sum is 0 then.

    Example:
        >>> import torch
        >>> reduced(torch.tensor(12.0), "pixel_mean", images=2, channels=3, pixels=4)
        tensor(3.)
    """
    images = max(images, 1)
    pixels = pixels.clamp(min=1) if isinstance(pixels, Tensor) else max(pixels, 1)
    if reduction == "mean":
        return total / pixels / channels
    if reduction == "pixel_mean":
        return total / pixels
    if reduction == "channel_mean":
        return total / (images * channels)
    if reduction == "map_mean":
        return total / pixels * images
    return total / (images if reduction == "sum_per_image" else 2 * images)


def added(values: Iterable[Tensor]) -> Tensor:
    """The sum of one tensor or more, in their order."""
    return functools.reduce(operator.add, values)


def mean_of_processes(x: Tensor) -> Tensor:
    """The mean of a tensor without gradient over the processes that share a step; every one of them calls it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    total = x.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
