"""PSPNet, the pyramid scene parsing network: the head on a dilated backbone, and its auxiliary head.

Letters: N images, C channels, h x w map, K classes. Zhao et al., CVPR 2017, section 3.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd2.distill import ConfigError

Norm = Callable[[int], nn.Module]


def conv_norm(inputs: int, outputs: int, kernel: int, norm: Norm) -> nn.Sequential:
    """Convolution of equal size without bias, norm, ReLU: (N, inputs, h, w) to (N, outputs, h, w)."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, norm(outputs), nn.ReLU())


def check_pooled(name: str, images: int, total: int) -> None:
    """Raises ConfigError when batch norm would have to normalize one pooled cell of one image.

    Args:
        name: of what pools to 1x1, for the error.
        images: that batch norm sees together.
        total: ``SOLVER.IMS_PER_BATCH``.
    """
    if images == 1:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {total}, one image a process, expected two or more: the batch norm of {name} "
            "meets maps pooled to 1x1"
        )


class PyramidPooling(nn.Module):
    """The map beside its averages over 1x1, 2x2, 3x3 and 6x6 bins, each reduced to ``width`` channels and enlarged.

    (N, C, h, w) to (N, C + bins * width, h, w); enlarged bilinear, corners aligned. A norm layer with batch statistics
    needs two images in training: the 1x1 bin is one cell an image.
    """

    def __init__(self, channels: int, width: int, norm: Norm = nn.BatchNorm2d, bins: Sequence[int] = (1, 2, 3, 6)):
        super().__init__()
        self.bins = tuple(bins)
        self.reduce = nn.ModuleList(conv_norm(channels, width, 1, norm) for _ in self.bins)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C + bins * width, h, w)."""
        # ONNX has no adaptive pooling of maps whose size is not known.
        average = bin_averages if torch.onnx.is_in_onnx_export() else F.adaptive_avg_pool2d
        pooled = [reduce(average(x, size)) for size, reduce in zip(self.bins, self.reduce)]
        return torch.cat([x, *(F.interpolate(p, x.shape[2:], mode="bilinear", align_corners=True) for p in pooled)], 1)


def bin_averages(x: Tensor, bins: int) -> Tensor:
    """(N, C, h, w) to (N, C, bins, bins): ``adaptive_avg_pool2d`` as two matrix products, for maps of any size."""
    down, across = (_bins(side, bins, x) for side in x.shape[2:])
    return down @ x @ across.T


def _bins(length: int | Tensor, bins: int, like: Tensor) -> Tensor:
    """(bins, length): the share of each cell in each bin, which reaches from a rounded down to a rounded up edge."""
    edges = torch.arange(bins + 1, device=like.device) * length
    cells = torch.arange(length, device=like.device)
    first, end = edges[:-1, None] // bins, (edges[1:, None] + bins - 1) // bins
    inside = ((cells >= first) & (cells < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class PSPHead(nn.Module):
    """Scores of the last stage's map: (N, C, h, w) to (N, K, h, w), before softmax and not enlarged.

    Taps: ``bottleneck`` is the input of the classifier, (N, width, h, w); ``predictor`` gives the scores.

    Args:
        channels: C of the last stage.
        classes: K.
        width: channels of the bottleneck and of each pooled map; a quarter of C in the paper, so 512 on a ResNet-101
            and 128 on a ResNet-18.
        dropout: share of whole channels that training drops before the classifier.
    """

    def __init__(self, channels: int, classes: int, width: int, norm: Norm = nn.BatchNorm2d, dropout: float = 0.1):
        super().__init__()
        self.pooling = PyramidPooling(channels, width, norm)
        joined = channels + len(self.pooling.bins) * width
        self.bottleneck = nn.Sequential(*conv_norm(joined, width, 3, norm), nn.Dropout2d(dropout))
        self.predictor = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, K, h, w) of the map (N, C, h, w)."""
        return self.predictor(self.bottleneck(self.pooling(x)))


class AuxiliaryHead(nn.Sequential):
    """Scores of stage 3 for deep supervision, (N, C, h, w) to (N, K, h, w): 3x3, norm, ReLU, dropout, 1x1."""

    def __init__(self, channels: int, classes: int, width: int, norm: Norm = nn.BatchNorm2d, dropout: float = 0.1):
        super().__init__(*conv_norm(channels, width, 3, norm), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))
