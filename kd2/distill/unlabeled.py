"""Images without labels behind the labeled ones of a detection batch: a backbone sees all, the heads see a part.

The student's heads see the labeled images, so its own losses are those of these alone. The teacher's see the others:
its detections there stand in for the boxes of the ground truth.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, nn

from kd2.distill.errors import ConfigError
from kd2.distill.taps import Taps

_PART = "backbone"


@contextlib.contextmanager
def sees_all(backbone: nn.Module, images: Callable[[], Tensor], heads: slice) -> Iterator[None]:
    """Let ``backbone`` see a whole batch inside the block, and what follows it the maps of some of its images.

    Taps of the backbone and inside it, whose hooks were there before, see all.

    Args:
        images: gives the (N, 3, H, W) normalized and padded images when the backbone is called.
        heads: the images whose maps go on, from a backbone that gives maps (N, C, h, w) by name.
    """

    def cut(_module: nn.Module, _inputs: Any, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return type(maps)((name, x[heads]) for name, x in maps.items())

    before = backbone.register_forward_pre_hook(lambda _module, _inputs: (images(),))
    after = backbone.register_forward_hook(cut)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def check_inside(taps: Taps, used: Collection[str]) -> None:
    """Raises ConfigError when a tap with an alias in ``used`` is no part of the backbone: heads see a part alone."""
    for tap in taps.taps:
        if tap.alias in used and tap.path.split(".")[0] != _PART:
            raise ConfigError(
                f"{taps.key}: the tap {tap.alias} is {tap.path}, but with KD.UNLABELED a detector's heads see the "
                f"labeled images alone; expected {_PART} or a part of it"
            )
