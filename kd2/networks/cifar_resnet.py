"""Residual networks for 32 x 32 images, with shortcuts that have no parameters.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385), section 4.2, option A.
Letters: N images, C channels, H x W map, K classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ``stride`` 2 halves the map."""

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + shortcut(x, y.shape[1], self.stride))


def shortcut(x: Tensor, width: int, stride: int) -> Tensor:
    """Every ``stride``-th row and column of (N, C, H, W), with zero channels on both sides up to ``width``."""
    if stride > 1:
        x = x[:, :, ::stride, ::stride]
    more = width - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, more // 2, more - more // 2)) if more else x


class CifarResNet(nn.Module):
    """A network of 6n + 2 layers: a convolution, three stages of n blocks, pooling, one linear layer.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        num_classes: K.

    Raises:
        ValueError: a depth that is not 6n + 2.
    """

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth is {depth}, expected 6n + 2: 20, 32, 44, 56, 110, ...")
        blocks = depth // 6
        self.num_classes, self.num_features = num_classes, WIDTHS[-1]
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, 1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, 2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, 2)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of normalized images (N, 3, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, width, stride), *(Block(width, width) for _ in range(blocks - 1)))
