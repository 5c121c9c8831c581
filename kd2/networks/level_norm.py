"""Batch normalization of a head that all levels of a feature pyramid share.

Letters: N images, C channels, H x W cells of a level.
"""

import torch
from torch import Tensor, nn


class LevelBatchNorm(nn.ModuleList):
    """Batch normalization with statistics of each level by itself and one weight and bias for all.

    In training a head that runs level by level normalizes each of them by its own batch. One running mean and variance
    of all would be right for none of them in evaluation ("Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section
    5.2). Names in the state dict are those of Detectron2.

    Args:
        channels: C.
        levels: passes of the head over one batch.
    """

    def __init__(self, channels: int, levels: int):
        super().__init__(nn.BatchNorm2d(channels, affine=False) for _ in range(levels))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self._level = 0

    def forward(self, x: Tensor) -> Tensor:
        """The map (N, C, H, W) of the next level, normalized."""
        normalized = self[self._level](x)
        self._level = (self._level + 1) % len(self)
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]

    def begin(self) -> None:
        """The next map is of the first level, wherever the pass before ended."""
        self._level = 0
