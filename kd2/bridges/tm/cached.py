"""Teacher outputs that are computed once, for views that never change."""
from torch import Tensor, nn


class Remembered(nn.Module):
    """A teacher whose logits for training images come from a file: those (N, K) pass through, images go to the model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 2 else self.model(x)


def cached_outputs(cfg, data, views, ranks):
    return None
