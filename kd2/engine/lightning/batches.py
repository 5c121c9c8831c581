"""What the loaders of all tasks have in common."""

from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Dataset

from kd2.data.stream import mapped
from kd2.distill import ConfigError


def images_a_rank(images: int, ranks: int) -> int:
    """``SOLVER.IMS_PER_BATCH`` shared among ``ranks`` processes; raises ConfigError when that does not go."""
    if images < 1 or images % ranks:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH is {images}, expected a multiple of {ranks} processes")
    return images // ranks


class TestImages(Dataset):
    """All records of a data set in order, without augmentation."""

    def __init__(self, data: list[dict], mapper: Callable[[dict], Any]):
        self.data, self.mapper = data, mapper

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return mapped(self.mapper, self.data[index])


def test_loader(data: list[dict], mapper: Callable[[dict], Any], cfg: CfgNode, collate: Callable) -> DataLoader:
    """Records through the mapper, one a batch; it draws nothing from the global generator."""
    return DataLoader(
        TestImages(data, mapper),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0),
    )
