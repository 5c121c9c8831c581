"""Records to batches for segmentation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader

from kd2.config import train_size
from kd2.data.records import without_labels
from kd2.data.segmentation.semantic import BUILTIN, SemanticRecords, load_semantic, of_one_run
from kd2.data.stream import Batches, Joined, Keyed, aspect, shuffled, train_loader, unlabeled_share
from kd2.distill import IGNORE_LABEL, ConfigError
from kd2.engine.lightning.batches import images_a_rank, test_loader
from kd2.engine.lightning.images import check_classes, named
from kd2.engine.lightning.segmentation.mapper import Sample, SemanticMapper
from kd2.engine.lightning.segmentation.models import num_classes
from kd2.networks.pspnet import check_pooled
from kd2.networks.window import check_window

# Architectures with a norm layer behind maps pooled to 1x1.
_POOLED = ("PSPNet", "DeepLabV3")


@dataclass(frozen=True)
class Batch:
    """Images and label maps.

    Attributes:
        images: N uint8 tensors (3, h, w) in the student's color order.
        labels: (N, H, W) classes, 255 for padding and pixels without one; uint8, int64 once on the device.
        records: the records the images came from.
        size: (H, W) of the padded batch.
    """

    images: list[Tensor]
    labels: Tensor
    records: list[dict]
    size: tuple[int, int]

    def to(self, device: torch.device) -> "Batch":
        """A copy with images and labels on ``device``."""
        images = [image.to(device, non_blocking=True) for image in self.images]
        return replace(self, images=images, labels=self.labels.to(device, non_blocking=True).long())

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory (the data loader asks for it when there is a GPU)."""
        return replace(self, images=[image.pin_memory() for image in self.images], labels=self.labels.pin_memory())


def collate(samples: list[Sample], smallest: tuple[int, int] = (0, 0)) -> Batch:
    """Samples of ``SemanticMapper`` to a batch padded to its largest height and width, ``smallest`` at least."""
    images, labels, records = zip(*samples)
    size = tuple(max(sides) for sides in zip(smallest, *(label.shape for label in labels)))
    padded = torch.full((len(labels), *size), IGNORE_LABEL, dtype=torch.uint8)
    for place, label in zip(padded, labels):
        place[: label.shape[0], : label.shape[1]] = label
    return Batch(list(images), padded, list(records), size)


def load_all(cfg: CfgNode, split: str, classes: Sequence[str] = ()) -> list[SemanticRecords]:
    """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST`` with one list of classes; in training those of
    ``KD.UNLABELED`` follow, without classes and labels. Tells what was found in them.

    Args:
        classes: those of the run, as far as they are known.

    Raises:
        ConfigError: no data set is named, or one without labels; half of ``KD.UNLABELED``.
        DataError: a file cannot be used, see ``kd2.data.segmentation.semantic``.
    """
    key = f"DATASETS.{split}"
    data = [load_one(cfg, name, key) for name in named(cfg, split, BUILTIN)]
    for d in data:
        if not d.classes:
            raise ConfigError(f"{key}: {d.name!r} has no labels, expected it in KD.UNLABELED.DATASETS")
    data = of_one_run(data, classes) + (_unlabeled(cfg) if split == "TRAIN" else [])
    for d in data:
        d.findings.tell()
    return data


def load_one(cfg: CfgNode, name: str, key: str) -> SemanticRecords:
    """The data set ``name``; ``key`` names it in errors."""
    return load_semantic(name, cfg.DATASETS.CUSTOM, key, cfg.INPUT.PIXEL_RANGE)


def _unlabeled(cfg: CfgNode) -> list[SemanticRecords]:
    names, key = cfg.KD.UNLABELED.DATASETS, "KD.UNLABELED.DATASETS"
    unlabeled_share(names, cfg.KD.UNLABELED.IMS_PER_BATCH, 1)
    found = []
    for data in (load_one(cfg, name, key) for name in names):
        found.append(replace(data, classes=(), records=without_labels(data.records)))
    return found


def check(cfg: CfgNode, data: list[SemanticRecords]) -> None:
    """Raises ConfigError when data sets do not fit each other or the model, or the window is no size with a step."""
    check_classes([d for d in data if d.classes], *num_classes(cfg))
    window(cfg)


def window(cfg: CfgNode) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``TEST.WINDOW``: (height, width) and (y, x) stride, both empty for whole images."""
    size, stride = cfg.TEST.WINDOW.SIZE, cfg.TEST.WINDOW.STRIDE
    check_window(size, stride)
    return tuple(size), tuple(stride)


def training_batches(cfg: CfgNode, data: list[SemanticRecords], start: int, rank: int, ranks: int) -> DataLoader:
    """An endless loader of this rank's batches, from iteration ``start`` on; unlabeled images come last in each."""
    labeled = [record for d in data if d.classes for record in d.records]
    extra = [record for d in data if not d.classes for record in d.records]
    records, crop = labeled + extra, train_size(cfg)
    grouping = cfg.DATALOADER.ASPECT_RATIO_GROUPING and not crop
    batches = Batches(
        functools.partial(shuffled, len(labeled), cfg.SEED),
        images_a_rank(cfg.SOLVER.IMS_PER_BATCH, ranks),
        start,
        group_of=(lambda index: aspect(records[index])) if grouping else None,
        rank=rank,
        ranks=ranks,
    )
    more = unlabeled_share(cfg.KD.UNLABELED.DATASETS, cfg.KD.UNLABELED.IMS_PER_BATCH, ranks)
    if cfg.MODEL.META_ARCHITECTURE in _POOLED and cfg.MODEL.SEM_SEG_HEAD.NORM == "BN":
        check_pooled(cfg.MODEL.META_ARCHITECTURE, batches.batch_size + more, cfg.SOLVER.IMS_PER_BATCH)
    if more:
        batches = Joined(batches, len(labeled), len(extra), more, cfg.SEED)
    dataset = Keyed(records, SemanticMapper(cfg, data, training=True), cfg.SEED)
    together = functools.partial(collate, smallest=crop) if crop else collate
    return train_loader(dataset, batches, cfg.DATALOADER.NUM_WORKERS, together)


def test_batches(cfg: CfgNode, data: SemanticRecords, rank: int, ranks: int) -> DataLoader:
    """A loader of this rank's share of a test set, one image a batch; its labels have the original size."""
    return test_loader(data.records[rank::ranks], SemanticMapper(cfg, [data], training=False), cfg, collate)
