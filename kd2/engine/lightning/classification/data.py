"""Images to batches for classifiers.

Letters: N images, Ls and Lt side of the student's and the teacher's input, K classes.
"""

import functools
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd2.data.classification.crops import Crops, apply
from kd2.data.classification.image_dataset import ImageDataset, joined
from kd2.data.classification.mixup import Mix, draw_mix, unit_pixels
from kd2.data.classification.views import Views
from kd2.data.stream import Batches, Place, shuffled, train_loader
from kd2.engine.lightning.batches import images_a_rank
from kd2.engine.lightning.classification.cached import cached_outputs
from kd2.engine.lightning.classification.sources import labeled
from kd2.engine.lightning.teacher import TeacherSource


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
    """One image as both networks see it, uint8. ``position`` is its place in the stream, ``teacher`` None or shared."""

    position: int
    index: int
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
    """Central crops of every ``step``-th image from ``start`` on; the teacher sees the same part."""

    def __init__(self, cfg: CfgNode, data: ImageDataset, teacher: int | None, start: int = 0, step: int = 1):
        self.data, self.indices = data, range(start, len(data), step)
        self.crops, self.size, self.teacher = Crops(scale=cfg.INPUT.TEST_SCALE), cfg.INPUT.SIZE, teacher

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Sample:
        index = self.indices[number]
        image = self.data.pixels(index)
        view = self.crops.view("cc", (image.shape[1], image.shape[2]), np.random.default_rng(0))
        other = None if self.teacher in (None, self.size) else apply(image, view, self.teacher)
        return Sample(number, index, apply(image, view, self.size), other, int(self.data.labels[index]))


def views_of(cfg: CfgNode, teacher_size: int | None) -> Views:
    """The views of ``KD.VIEWS`` between the sizes of student and teacher, None without one."""
    v = cfg.KD.VIEWS
    crops = Crops(v.SCALE, v.PADDING, tuple(v.AREA), tuple(v.ASPECT), v.FLIP)
    return Views(v.MODE, cfg.INPUT.SIZE, teacher_size or cfg.INPUT.SIZE, cfg.SEED, crops)


def training_batches(
    cfg: CfgNode, data: list[ImageDataset], teachers: list[TeacherSource], start: int, rank: int, ranks: int
) -> DataLoader:
    """An endless loader of this rank's batches, from iteration ``start`` on; ``teachers``: those that look, if any."""
    size = cfg.SOLVER.IMS_PER_BATCH
    own_size = images_a_rank(size, ranks)
    teacher_size = max((source.cfg.INPUT.SIZE for source in teachers), default=None)
    every, views, guided = joined(data), views_of(cfg, teacher_size), bool(teachers)
    outputs = cached_outputs(cfg, teachers, every, views, ranks) if guided else None
    shared, known = guided and outputs is None and views.shared, all(labeled(cfg, part) for part in data)

    def collate(samples: list[Sample]) -> HostBatch:
        positions, indices, images, others, labels = zip(*samples)
        mix = draw_mix(cfg.KD.VIEWS.MIXUP_ALPHA, cfg.SEED, positions[0] // size) if views.mode.mixup else None
        return HostBatch(
            torch.stack(images),
            _stacked(others),
            torch.tensor(labels) if known else None,
            None if outputs is None else outputs[list(indices)],
            shared,
            mix,
            cfg.MODEL.NUM_CLASSES,
        )

    batches = Batches(functools.partial(shuffled, len(every), cfg.SEED), own_size, start, rank=rank, ranks=ranks)
    dataset = TrainViews(every, views, alone=not guided or outputs is not None)
    return train_loader(dataset, batches, cfg.DATALOADER.NUM_WORKERS, collate)


def test_batches(cfg: CfgNode, data: ImageDataset, teacher: int | None, rank: int, ranks: int) -> DataLoader:
    """A loader of this rank's share of a test set; ``teacher``: side of its input if it looks too."""
    return _clean_loader(cfg, CenterCrops(cfg, data, teacher, rank, ranks), teacher)


def clean_batches(cfg: CfgNode, data: list[ImageDataset]) -> DataLoader:
    """Central crops of training images in an order that depends on the seed alone; the student's side only."""
    every = joined(data)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(cfg.SEED)).tolist()
    return _clean_loader(cfg, torch.utils.data.Subset(CenterCrops(cfg, every, None), order), None)


def _stacked(images: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if images[0] is None else torch.stack(images)


def _clean_loader(cfg: CfgNode, dataset: Dataset, teacher: int | None) -> DataLoader:
    def collate(samples: list[Sample]) -> HostBatch:
        _, _, images, others, labels = zip(*samples)
        shared, classes = teacher == cfg.INPUT.SIZE, cfg.MODEL.NUM_CLASSES
        return HostBatch(torch.stack(images), _stacked(others), torch.tensor(labels), None, shared, None, classes)

    return DataLoader(
        dataset,
        cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )
