"""Class scores of whole images, in one piece or window by window.

Letters: N images, H x W pixels, K classes.
"""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from kd2.distill import ConfigError

Network = Callable[[Tensor], Tensor]


def enlarged(scores: Tensor, size: Sequence[int]) -> Tensor:
    """(N, K, h, w) to (N, K, *size) in float32, bilinear with aligned corners."""
    return F.interpolate(scores.float(), tuple(size), mode="bilinear", align_corners=True)


def predict(network: Network, images: Tensor, window: Sequence[int] = (), stride: Sequence[int] = ()) -> Tensor:
    """Scores (N, K, H, W) in float32 of images (N, 3, H, W).

    Args:
        network: (N, 3, h, w) to scores (N, K, any size); they are enlarged to h x w.
        window: (height, width) in pixels of the pieces that the network sees, at most the image's; empty: all at once.
        stride: (y, x) pixels from piece to piece. The last one ends at the border; scores of pixels that lie in several
            pieces are averaged.
    """
    if not window:
        return enlarged(network(images), images.shape[2:])
    height, width = (min(side, whole) for side, whole in zip(window, images.shape[2:]))
    total = images.new_zeros(())
    seen = images.new_zeros(1, 1, *images.shape[2:])
    for y in starts(images.shape[2], height, stride[0]):
        for x in starts(images.shape[3], width, stride[1]):
            place = (..., slice(y, y + height), slice(x, x + width))
            piece = enlarged(network(images[place]), (height, width))
            if not total.dim():  # the first piece tells how many classes there are
                total = piece.new_zeros(*piece.shape[:2], *images.shape[2:])
            total[place] += piece
            seen[place] += 1
    return total / seen


def check_window(size: Sequence[int], stride: Sequence[int]) -> None:
    """Raises ConfigError for a ``TEST.WINDOW`` other than two sides and two steps of at most these, or nothing."""
    good = [len(pair) == 2 and all(type(x) is int and x > 0 for x in pair) for pair in (size, stride)]
    if (size or stride) and not (all(good) and all(step <= side for side, step in zip(size, stride))):
        raise ConfigError(
            f"TEST.WINDOW.SIZE is {list(size)} and STRIDE {list(stride)}, expected two sides and two steps of at most "
            "these, in pixels"
        )


def starts(whole: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side, in order; together they cover it.

    >>> starts(10, 4, 3), starts(9, 4, 4)
    ([0, 3, 6], [0, 4, 5])
    """
    return [*range(0, whole - window, stride), whole - window]
