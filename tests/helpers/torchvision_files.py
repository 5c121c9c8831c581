"""State dicts of torchvision's own networks with drawn weights, in the form that its training scripts save."""

from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model


def write(builder: str, path: Path, **options) -> nn.Module:
    """Draw a network, save its state dict and return the network; ``options`` are the builder's."""
    torch.manual_seed(0)
    model = get_model(builder, weights=None, weights_backbone=None, **options)
    torch.save(model.state_dict(), path)
    return model.eval()
