"""The critic of holistic distillation: tells score maps of the teacher from those of the student.

Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019 (arXiv 1903.04197), section
3.2; self-attention and spectral normalization as in Zhang et al., "Self-Attention GAN", ICML 2019 (arXiv 1805.08318).
Letters: N images, C classes, H x W score map, n locations.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import ParameterGroupOverride

Input = Literal["batch_norm", "tanh", "softmax", "none"]

# Four strided layers and a 4x4 window: the smallest map, in cells, that gives an output.
SMALLEST = 64


class SpectralConv(nn.Module):
    """4x4 convolution, stride 2, padding 1, of the weight divided by an estimate of its largest singular value.

    Every call, in eval mode too, improves the estimate by one power iteration: ``v = unit(W^T u)``, ``u = unit(W v)``,
    ``sigma = u . W v``. The vectors are constants for the gradient, and each call keeps its own: the buffers only carry
    them to the next call, and may change before a backward.
    """

    def __init__(self, channels: int, out: int):
        super().__init__()
        plain = nn.Conv2d(channels, out, 4)
        self.weight, self.bias = plain.weight, plain.bias
        self.u: Tensor
        self.v: Tensor
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(channels * 16), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """A map (N, out, H // 2, W // 2) of a map (N, channels, H, W)."""
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.T @ self.u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
            self.u.copy_(u), self.v.copy_(v)
        sigma = u @ (matrix @ v)
        return F.conv2d(x, self.weight / sigma, self.bias, stride=2, padding=1)


class SelfAttention(nn.Module):
    """``x + gamma * attended``; gamma starts at 0. Written out, since fused attention has no second derivative."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def attention(self, x: Tensor) -> Tensor:
        """(N, n, n): what each location takes from each; rows sum to 1."""
        return (self.query(x).flatten(2).transpose(1, 2) @ self.key(x).flatten(2)).softmax(2)

    def forward(self, x: Tensor) -> Tensor:
        """The attended map, of the shape of ``x`` (N, channels, h, w)."""
        attended = self.value(x).flatten(2) @ self.attention(x).transpose(1, 2)
        return self.gamma * attended.view_as(x) + x


class Critic(nn.Module):
    """Scores (N, 1, h, w) of score maps (N, C, H, W): one for each 4x4 window of the map at stride 16.

    Four ``SpectralConv`` with LeakyReLU(0.1), widths 1, 2, 4 and 8 times ``width``, self-attention behind the third and
    fourth, then a plain 4x4 convolution without padding.

    Args:
        classes: C.
        width: channels of the first layer; a multiple of 2.
        input: what is done to the raw scores. ``batch_norm`` also covers the condition.
        conditional: put the three channels of the image before the scores.
        solver: how the critic is trained.
    """

    def __init__(self, classes: int, width: int, input: Input, conditional: bool, solver: ParameterGroupOverride):
        super().__init__()
        self.input, self.parameter_group = input, solver
        channels = classes + 3 if conditional else classes
        if input == "batch_norm":
            self.norm = nn.BatchNorm2d(channels)
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        self.convs = nn.ModuleList(SpectralConv(a, b) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(SelfAttention(c) for c in widths[3:])
        self.last = nn.Conv2d(8 * width, 1, 4)

    def forward(self, scores: Tensor, image: Tensor | None = None) -> Tensor:
        """``image`` (N, 3, H, W) when the critic is conditional."""
        return self.last(self.features(scores, image)[-1])

    def features(self, scores: Tensor, image: Tensor | None = None) -> list[Tensor]:
        """What goes into the first and second attention, and into the last layer."""
        if self.input == "tanh":
            scores = scores.tanh()
        elif self.input == "softmax":
            scores = scores.softmax(1)
        x = scores if image is None else torch.cat([image, scores], 1)
        if self.input == "batch_norm":
            x = self.norm(x)
        for conv in self.convs[:3]:
            x = F.leaky_relu(conv(x), 0.1)
        third = x
        fourth = F.leaky_relu(self.convs[3](self.attentions[0](third)), 0.1)
        return [third, fourth, self.attentions[1](fourth)]
