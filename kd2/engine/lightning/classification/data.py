"""Images to batches for classifiers.

Letters: N images, Ls and Lt side of the student's and the teacher's input, K classes.
"""

import functools

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd2.data.classification.batches import CenterCrops, HostBatch, Sample, TrainViews
from kd2.data.classification.crops import Crops
from kd2.data.classification.image_dataset import ImageDataset, joined
from kd2.data.classification.mixup import draw_mix
from kd2.data.classification.views import Views
from kd2.data.stream import Batches, shuffled, train_loader
from kd2.engine.lightning.batches import images_a_rank
from kd2.engine.lightning.classification.cached import cached_outputs
from kd2.engine.lightning.classification.sources import labeled
from kd2.engine.lightning.teacher import TeacherSource


def views_of(cfg: CfgNode, teacher_size: int | None) -> Views:
    """The views of ``KD.VIEWS`` between the sizes of student and teacher, None without one."""
    v = cfg.KD.VIEWS
    crops = Crops(v.SCALE, v.PADDING, tuple(v.AREA), tuple(v.ASPECT), v.FLIP)
    return Views(v.MODE, cfg.INPUT.SIZE, teacher_size or cfg.INPUT.SIZE, cfg.SEED, crops)


def training_batches(
    cfg: CfgNode,
    data: list[ImageDataset],
    teachers: list[TeacherSource],
    start: int,
    rank: int,
    ranks: int,
    dry: bool = False,
) -> DataLoader:
    """An endless loader of this rank's batches, from iteration ``start`` on.

    Args:
        teachers: those that look, if any.
        dry: a batch or a few are wanted: a cache that is not there is not made, and this process reads.
    """
    size = cfg.SOLVER.IMS_PER_BATCH
    own_size = images_a_rank(size, ranks)
    teacher_size = max((source.cfg.INPUT.SIZE for source in teachers), default=None)
    every, views, guided = joined(data), views_of(cfg, teacher_size), bool(teachers)
    outputs = cached_outputs(cfg, teachers, every, views, ranks, make=not dry) if guided else None
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
    return train_loader(dataset, batches, 0 if dry else cfg.DATALOADER.NUM_WORKERS, collate)


def test_batches(cfg: CfgNode, data: ImageDataset, teacher: int | None, rank: int, ranks: int) -> DataLoader:
    """A loader of this rank's share of a test set; ``teacher``: side of its input if it looks too."""
    return _clean_loader(cfg, _center_crops(cfg, data, teacher, rank, ranks), teacher)


def clean_batches(cfg: CfgNode, data: list[ImageDataset]) -> DataLoader:
    """Central crops of training images in an order that depends on the seed alone; the student's side only."""
    every = joined(data)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(cfg.SEED)).tolist()
    return _clean_loader(cfg, torch.utils.data.Subset(_center_crops(cfg, every, None), order), None)


def _center_crops(cfg: CfgNode, data: ImageDataset, teacher: int | None, start: int = 0, step: int = 1) -> CenterCrops:
    return CenterCrops(data, cfg.INPUT.TEST_SCALE, cfg.INPUT.SIZE, teacher, start, step)


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
