"""ESPNet-C and ESPNet: efficient spatial pyramids of dilated convolutions.

Letters: N images, H x W pixels, K classes. Sizes halve rounded up, so a map of stride s has ceil(H / s) x ceil(W / s)
cells. Mehta et al., ECCV 2018, sections 3 and 4.
"""

import torch
from torch import Tensor, nn

from kd2.distill import ConfigError

DILATIONS = (1, 2, 4, 8, 16)
# Channels of the encoder's three maps.
LEVEL1, LEVEL2, LEVEL3 = 19, 131, 256


def norm_act(channels: int) -> nn.Sequential:
    """Batch norm and PReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels))


class ESP(nn.Module):
    """Reduce, split into dilated 3x3 convolutions, transform, merge.

    (N, inputs, h, w) to (N, outputs, h / stride, w / stride). From dilation 2 on the branches are added one after the
    other before they are joined (hierarchical feature fusion), which takes away the grid that dilation leaves. Stride 2
    reduces by a 3x3 convolution, stride 1 by a 1x1.

    Args:
        residual: add the input; needs stride 1 and as many outputs as inputs.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, residual: bool = False):
        super().__init__()
        width = outputs // len(DILATIONS)
        first = outputs - width * (len(DILATIONS) - 1)
        kernel = 3 if stride > 1 else 1
        self.residual = residual
        self.reduce = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, first if d == 1 else width, 3, padding=d, dilation=d, bias=False) for d in DILATIONS
        )
        self.finish = norm_act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Merged branches (N, outputs, h / stride, w / stride), rounded up."""
        reduced = self.reduce(x)
        first, second, *rest = (branch(reduced) for branch in self.branches)
        merged = [first, second]
        for wider in rest:
            merged.append(merged[-1] + wider)
        joined = torch.cat(merged, 1)
        return self.finish(x + joined if self.residual else joined)


class ESPEncoder(nn.Module):
    """Images to maps of stride 2, 4 and 8; the smaller image enters every level again (input reinforcement).

    (N, 3, H, W) to {"level1": (N, 19, ...) of stride 2, "level2": (N, 131, ...) of stride 4, "out": (N, 256, ...) of
    stride 8}. ESPNet-C is this with one 1x1 convolution without bias on ``out``.

    Args:
        level2_blocks, level3_blocks: ESP modules that repeat at stride 4 and 8 (p and q).
    """

    def __init__(self, level2_blocks: int = 2, level3_blocks: int = 8):
        super().__init__()
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), norm_act(16))
        self.join1 = norm_act(LEVEL1)
        self.down2 = ESP(LEVEL1, 64, stride=2)
        self.blocks2 = nn.Sequential(*(ESP(64, 64, residual=True) for _ in range(level2_blocks)))
        self.join2 = norm_act(LEVEL2)
        self.down3 = ESP(LEVEL2, 128, stride=2)
        self.blocks3 = nn.Sequential(*(ESP(128, 128, residual=True) for _ in range(level3_blocks)))
        self.join3 = norm_act(LEVEL3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalized images (N, 3, H, W) to the maps ``level1``, ``level2`` and ``out``."""
        half = self.shrink(images)
        level1 = self.join1(torch.cat([self.stem(images), half], 1))
        coarse = self.down2(level1)
        level2 = self.join2(torch.cat([self.blocks2(coarse), coarse, self.shrink(half)], 1))
        coarse = self.down3(level2)
        return {"level1": level1, "level2": level2, "out": self.join3(torch.cat([coarse, self.blocks3(coarse)], 1))}


class ESPDecoder(nn.Module):
    """ESPNet's light decoder: maps of ``ESPEncoder`` to scores of (twice level 1), so (N, K, H, W) for even H and W.

    Taps: ``fuse1`` is the input of the last transposed convolution, (N, K, ...) of stride 2; ``predictor`` gives the
    scores.

    Raises:
        ConfigError: fewer classes than an ESP module has branches.
    """

    def __init__(self, classes: int):
        super().__init__()
        if classes < len(DILATIONS):
            raise ConfigError(f"ESPNet needs {len(DILATIONS)} classes or more, found {classes}; ESPNet-C takes any")
        self.score3 = nn.Sequential(nn.Conv2d(LEVEL3, classes, 1, bias=False), nn.BatchNorm2d(classes, eps=1e-3))
        self.up3 = _twice(classes)
        self.score2 = nn.Conv2d(LEVEL2, classes, 1, bias=False)
        self.fuse2 = nn.Sequential(norm_act(2 * classes), ESP(2 * classes, classes))
        self.up2 = nn.Sequential(_twice(classes), norm_act(classes))
        self.fuse1 = nn.Sequential(nn.Conv2d(LEVEL1 + classes, classes, 3, padding=1, bias=False), norm_act(classes))
        self.predictor = _twice(classes)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """The encoder's maps to scores (N, K, 2 h, 2 w), where ``level1`` has h x w cells."""
        level2 = torch.cat([self.score2(maps["level2"]), _fit(self.up3(self.score3(maps["out"])), maps["level2"])], 1)
        level1 = torch.cat([_fit(self.up2(self.fuse2(level2)), maps["level1"]), maps["level1"]], 1)
        return self.predictor(self.fuse1(level1))


def _twice(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def _fit(x: Tensor, like: Tensor) -> Tensor:
    """``x`` without the last row or column where ``like`` has an odd size."""
    return x[..., : like.shape[-2], : like.shape[-1]]
