"""TaT's projections: a convolution and a batch norm.

Letters: B images, C channels, H x W map.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Statistics = Literal["batch", "image"]


class Projection(nn.Module):
    """Convolution without bias, PyTorch's initialization, then ``Norm``: (B, Cs, H, W) to (B, C, H, W).

    The convolution follows autocast; what comes behind it is at least float32.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, statistics: Statistics):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = Norm(out_channels, statistics)

    def forward(self, x: Tensor) -> Tensor:
        """The projected map (B, C, H, W)."""
        y = self.conv(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.bn(y.to(torch.promote_types(y.dtype, torch.float32)))


class Norm(nn.BatchNorm2d):
    """Batch norm whose training statistics are the batch's or, all images at once, each image's own.

    With ``image`` the running statistics take one step of momentum an image, in the order of the batch, as when the
    images pass one by one.

    One image, and frozen statistics, do not go through PyTorch's batch norm: its backward pass on the CPU is wrong for
    a batch of one when the incoming gradient is a transposed view (PyTorch 2.15).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, statistics: Statistics):
        super().__init__(channels)
        self.statistics = statistics

    def forward(self, x: Tensor) -> Tensor:
        """The normalized map (B, C, H, W)."""
        if not self.training:
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            shift = self.bias - self.running_mean * scale
            return x * scale[:, None, None] + shift[:, None, None]
        if self.statistics == "batch" and len(x) > 1:
            return super().forward(x)
        n, channels, area = len(x), self.num_features, x.shape[2] * x.shape[3]
        y, mean, scale = torch.native_group_norm(x, self.weight, self.bias, n, channels, area, channels, self.eps)
        self._track(mean.detach(), (scale.detach() ** -2 - self.eps).clamp(min=0) * (area / max(area - 1, 1)))
        return y

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics from those of each image, (B, C)."""
        images = len(mean)
        decay = (1 - self.momentum) ** torch.arange(images, dtype=mean.dtype, device=mean.device).flip(0)
        for running, seen in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_((1 - self.momentum) ** images).add_(self.momentum * (decay @ seen))
        self.num_batches_tracked += images
