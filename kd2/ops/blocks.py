"""Large maps a piece at a time."""

from collections.abc import Iterator

from torch import Tensor

# Elements that are worked on at once: on the CPU half a MiB, which one core's cache still serves.
_AT_ONCE = {"cpu": 1 << 17}
_AT_ONCE_ELSEWHERE = 1 << 20


def blocks(x: Tensor) -> Iterator[slice]:
    """Slices of the last axis of (N, C, P), of so many cells that temporaries stay small."""
    images, channels, cells = x.shape
    step = max(_AT_ONCE.get(x.device.type, _AT_ONCE_ELSEWHERE) // max(images * channels, 1), 1)
    for first in range(0, cells, step):
        yield slice(first, first + step)
