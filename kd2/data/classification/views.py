"""View modes: what teacher and student each see of an image.

Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022 (arXiv 2106.05237),
section 3.1.1. ``rs`` is the whole image, ``cc`` its center, ``rc`` a mild random crop, ``ic`` a random box of 5 to
100 % of the area; see ``kd2.data.classification.crops``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from kd2.data.classification.crops import Crop, Crops, Size, View, apply
from kd2.distill import ConfigError, nearest

_DEFAULT_CROPS = Crops()
_STUDENT, _TEACHER, _ENSEMBLE = range(3)  # whose draw it is, a part of its key


@dataclass(frozen=True)
class Mode:
    """One view mode.

    Attributes:
        relation: ``fix``: the teacher sees the same every epoch; ``ind``: both draw; ``same``: both see one draw.
        student, teacher: their crops.
        mixup: whether the training step mixes the pixels of both with one draw.
        ensemble: the teacher's target is its mean prediction over many fixed views.
    """

    relation: Literal["fix", "ind", "same"]
    student: Crop
    teacher: Crop
    mixup: bool = False
    ensemble: bool = False

    @property
    def cacheable(self) -> bool:
        """Whether the teacher's output of an image is the same in every epoch."""
        return self.relation == "fix"


MODES = {
    "fix/rs": Mode("fix", "rs", "rs"),
    "fix/cc": Mode("fix", "rc", "cc"),
    "fix/ic_ens": Mode("fix", "ic", "ic", ensemble=True),
    "ind/rc": Mode("ind", "rc", "rc"),
    "ind/ic": Mode("ind", "ic", "ic"),
    "same/rc": Mode("same", "rc", "rc"),
    "same/ic": Mode("same", "ic", "ic"),
    "same/rc+mixup": Mode("same", "rc", "rc", mixup=True),
    "same/ic+mixup": Mode("same", "ic", "ic", mixup=True),
    "funmatch": Mode("same", "ic", "ic", mixup=True),  # the paper's name of the line above
}


class Views:
    """Draws the views of each image and applies them.

    A draw depends on (seed, epoch, index of the image, role) alone: workers, ranks and a resumed run do not change it.

    Args:
        mode: a name in ``MODES`` (``KD.VIEWS.MODE``).
        size: side of the student's input in pixels.
        teacher_size: the teacher's; both see the same part of the original image.
        seed: the run's seed.
        crops: how ``cc``, ``rc`` and ``ic`` are drawn.

    Raises:
        ConfigError: an unknown mode.
    """

    def __init__(self, mode: str, size: int, teacher_size: int, seed: int, crops: Crops = _DEFAULT_CROPS):
        if mode not in MODES:
            raise ConfigError(f"KD.VIEWS.MODE is {mode!r}; {nearest(mode, MODES)}")
        self.name, self.mode = mode, MODES[mode]
        self.size, self.teacher_size = size, teacher_size
        self.seed, self.crops = seed, crops

    @property
    def shared(self) -> bool:
        """Whether the teacher's pixels are the student's, so that one tensor serves both."""
        same = self.mode.relation == "same" or self.name == "fix/rs"
        return same and self.size == self.teacher_size

    def draw(self, image: Size, epoch: int, index: int) -> tuple[View, View]:
        """The student's and the teacher's view of image number ``index``, which has (H, W) pixels.

        Raises:
            ConfigError: under ``fix/ic_ens`` the teacher has no single view; see ``ensemble``.
        """
        if self.mode.ensemble:
            raise ConfigError(f"KD.VIEWS.MODE {self.name}: the teacher's target comes from a cache of its predictions")
        student = self.student(image, epoch, index)
        return student, student if self.mode.relation == "same" else self.teacher(image, epoch, index)

    def student(self, image: Size, epoch: int, index: int) -> View:
        """The student's view alone; it is all that is drawn when the teacher is cached."""
        return self._view(self.mode.student, image, (epoch, index, _STUDENT))

    def teacher(self, image: Size, epoch: int, index: int) -> View:
        """The teacher's own view, which no student's view depends on."""
        return self._view(self.mode.teacher, image, (epoch, index, _TEACHER))

    def fixed(self, image: Size, index: int, views: int = 1) -> list[View]:
        """What the teacher sees of an image when its outputs are cached: one view, or ``views`` under ``fix/ic_ens``.

        Raises:
            ConfigError: a mode whose teacher sees another view every epoch.
        """
        check_cacheable(self.name)
        count = views if self.mode.ensemble else 1
        return [self._view(self.mode.teacher, image, (v, index, _ENSEMBLE)) for v in range(count)]

    def pixels(self, image: Tensor, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """What student and teacher see: (3, L_s, L_s) and (3, L_t, L_t) uint8 of an image (3, H, W) uint8.

        They are one tensor when ``shared``.
        """
        ours, theirs = self.draw((image.shape[1], image.shape[2]), epoch, index)
        student = apply(image, ours, self.size)
        return student, student if self.shared else apply(image, theirs, self.teacher_size)

    def _view(self, crop: Crop, image: Size, key: tuple[int, int, int]) -> View:
        return self.crops.view(crop, image, np.random.default_rng((self.seed, *key)))


def check_cacheable(mode: str) -> None:
    """Raises ConfigError for a mode under which the teacher sees another view every epoch."""
    if not MODES[mode].cacheable:
        kept = [name for name, known in MODES.items() if known.cacheable]
        raise ConfigError(
            f"KD.VIEWS.MODE {mode}: the teacher sees another view in every epoch, so its outputs cannot be cached; "
            f"a cache goes with {', '.join(kept)}"
        )
