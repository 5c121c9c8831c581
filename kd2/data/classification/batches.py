"""Images as samples and batches of a classifier: what student and teacher see of each.

Letters: N images, Ls and Lt side of the student's and the teacher's input, K classes.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from kd2.data.classification.crops import Crops, apply
from kd2.data.classification.image_dataset import ImageDataset
from kd2.data.classification.mixup import Mix, unit_pixels
from kd2.data.classification.views import Views
from kd2.data.stream import Place


@dataclass(frozen=True)
class Batch:
    """A batch on the device. Mixing is done; each network normalizes its own.

    Attributes:
        images: (N, 3, Ls, Ls) float32 in [0, 1].
        teacher: (N, 3, Lt, Lt) likewise, the very tensor of ``images`` where both see the same; None without a teacher.
        labels: (N,) int64, (N, K) probabilities of mixed images, or None.
        targets: (N, K) logits of the teacher from a cache, or None.
    """

    images: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    targets: Tensor | None


@dataclass(frozen=True)
class HostBatch:
    """A batch as the loader makes it: 8-bit pixels on the host. ``shared``: the teacher sees ``images``.

    ``mix`` mixes ``classes``-way labels with the pixels.
    """

    images: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    targets: Tensor | None
    shared: bool
    mix: Mix | None
    classes: int

    def pin_memory(self) -> "HostBatch":
        """A copy in page-locked memory (the data loader asks for it when there is a GPU)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: x.pin_memory() for name, x in tensors.items()})

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``: 8-bit pixels travel, and are mixed there once for both networks."""
        images = self._pixels(self.images, device)
        teacher = images if self.shared else None if self.teacher is None else self._pixels(self.teacher, device)
        labels, targets = (None if x is None else x.to(device, non_blocking=True) for x in (self.labels, self.targets))
        if self.mix and labels is not None:
            labels = self.mix(F.one_hot(labels, self.classes).float())
        return Batch(images, teacher, labels, targets)

    def _pixels(self, x: Tensor, device: torch.device) -> Tensor:
        pixels = unit_pixels(x.to(device, non_blocking=True))
        return self.mix(pixels) if self.mix else pixels


class Sample(NamedTuple):
    """One image as both networks see it, uint8; ``teacher`` is None where it sees the student's pixels, or nothing.

    ``position`` is its place in the stream, ``number`` that in the data set.
    """

    position: int
    number: int
    student: Tensor
    teacher: Tensor | None
    label: int


class TrainViews(Dataset):
    """Training images at their places in the stream, drawn by ``views``; ``alone``: no teacher looks."""

    def __init__(self, data: ImageDataset, views: Views, alone: bool):
        self.data, self.views, self.alone = data, views, alone

    def __getitem__(self, place: Place) -> Sample:
        position, index = place
        image, epoch, label = self.data.pixels(index), position // len(self.data), int(self.data.labels[index])
        if self.alone:
            view = self.views.student((image.shape[1], image.shape[2]), epoch, index)
            return Sample(position, index, apply(image, view, self.views.size), None, label)
        student, teacher = self.views.pixels(image, epoch, index)
        return Sample(position, index, student, None if self.views.shared else teacher, label)


class CenterCrops(Dataset):
    """Central crops of every ``step``-th image from ``start`` on; the teacher sees the same part.

    Args:
        scale: see ``Crops``.
        size: side of the student's input in pixels.
        teacher: of the teacher's, None when none looks.
    """

    def __init__(self, data: ImageDataset, scale: float, size: int, teacher: int | None, start: int = 0, step: int = 1):
        self.data, self.indices = data, range(start, len(data), step)
        self.crops, self.size, self.teacher = Crops(scale=scale), size, teacher

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Sample:
        index = self.indices[number]
        image = self.data.pixels(index)
        view = self.crops.view("cc", (image.shape[1], image.shape[2]), np.random.default_rng(0))
        other = None if self.teacher in (None, self.size) else apply(image, view, self.teacher)
        return Sample(number, index, apply(image, view, self.size), other, int(self.data.labels[index]))


class TeacherViews(Dataset):
    """For each image its number and what the teacher sees of it: (V, 3, Lt, Lt) uint8."""

    def __init__(self, data: ImageDataset, views: Views, count: int):
        self.data, self.views, self.count = data, views, count

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        image = self.data.pixels(index)
        fixed = self.views.fixed((image.shape[1], image.shape[2]), index, self.count)
        return index, torch.stack([apply(image, view, self.views.teacher_size) for view in fixed])
