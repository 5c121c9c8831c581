"""A chain of convolutions for the tests of taps."""

import torch
from torch import nn

from kd2.distill import Tap, Taps

SIZE = (16, 16)


def image() -> torch.Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions, and a head that is called once a level; counts the passes that reached the end."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Conv2d(4, 2, 1)
        self.levels, self.finished = 2, 0

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        scores = [self.head(m) for m in [a, b, b, b][: self.levels]]
        self.finished += 1
        return scores


def capturing(model: nn.Module, *texts: str) -> Taps:
    taps = Taps(model, [Tap.parse(text) for text in texts], "KD.STUDENT.TAPS")
    taps.probe(lambda: model(image()), SIZE)
    return taps


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
