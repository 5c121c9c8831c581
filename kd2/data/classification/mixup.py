"""From 8-bit pixels to what a network takes in, with mixup in between.

The order is fixed: scale to [0, 1], mix once, then let each network normalize its own. Mixing and normalizing commute;
rounding mixed pixels to 8 bits would not.
Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018 (arXiv 1710.09412).
Letters: N images, C channels, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd2.distill import ConfigError

_STREAM = 0x6D6978  # apart from the keys of the views


@dataclass(frozen=True)
class Mix:
    """One draw for a whole batch: image i becomes ``coefficient x_i + (1 - coefficient) x_partner(i)``.

    ``partner`` is (N,) int64; None is the image before, which every device knows.
    """

    coefficient: float
    partner: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Mixed (N, ...), a new tensor: pixels of either network, or one-hot labels (N, K)."""
        other = x.roll(1, 0) if self.partner is None else x[self.partner]
        return torch.lerp(other, x, self.coefficient)


def draw_mix(alpha: float, seed: int, iteration: int) -> Mix:
    """The draw of one training step: the coefficient from Beta(alpha, alpha); alpha 1 is uniform on [0, 1].

    The coefficient is drawn on the host (one number; no device waits) from (seed, iteration) alone: every process of a
    run takes the same and a resumed run repeats it. The partner is the image before in the process's own batch, in
    shuffled batches as good as any.

    Raises:
        ConfigError: an alpha that is not above 0.
    """
    if not alpha > 0:
        raise ConfigError(f"KD.VIEWS.MIXUP_ALPHA is {alpha}, expected a number above 0")
    generator = np.random.default_rng((seed, iteration, _STREAM))
    return Mix(float(generator.beta(alpha, alpha)))


def unit_pixels(x: Tensor) -> Tensor:
    """Pixels in [0, 1] of those in 0..255: float32 from uint8, any shape."""
    return x / 255


def normalized(x: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """``(x - mean) / std`` of pixels (N, C, H, W) in [0, 1]; ``mean`` and ``std`` a channel each, on the same scale.

    Tensors on the device of ``x`` cost no copy to it.
    """
    mean, std = (torch.as_tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1) for v in (mean, std))
    return (x - mean) / std
