"""The semantic head on a feature pyramid. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, sec. 3."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from kd2.networks.pspnet import conv_norm


class Levels(nn.Module):
    """P2 to P5 brought to the size of P2 by 3x3 convolutions, each but P2's followed by a doubling, and added.

    {"0": (N, C, h, w), ..., "3"} to (N, width, h, w).
    """

    def __init__(self, channels: int, width: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.ModuleList(conv_norm(channels if i == 0 else width, width, 3, norm) for i in range(max(level, 1)))
            for level in range(4)
        )

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """The sum of the levels, at the size of P2."""
        total = self.convs[0][0](maps["0"])
        for level in range(1, 4):
            x = maps[str(level)]
            for i, conv in enumerate(self.convs[level]):
                # To the size of the next finer level: odd sizes are not exactly doubled.
                x = F.interpolate(conv(x), maps[str(level - 1 - i)].shape[2:], mode="bilinear", align_corners=False)
            total = total + x
        return total


class SemSegFPNHead(nn.Module):
    """Scores at stride 4: {"0": (N, C, h, w), ...} to (N, K, h, w). Tap ``sum`` for the input of the classifier."""

    def __init__(self, channels: int, classes: int, width: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.sum = Levels(channels, width, norm)
        self.predictor = nn.Conv2d(width, classes, 1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """Scores of the pyramid's maps."""
        return self.predictor(self.sum(maps))
