"""What two checkpoints do not have in common, and how a network lies in memory."""

from typing import Any

import torch


def different(a: Any, b: Any) -> list[str]:
    """Paths of what differs between two nested checkpoints, tensors compared bit for bit."""
    one, other = _flat(a), _flat(b)
    values = [name for name in one.keys() & other.keys() if not _equal(one[name], other[name])]
    return sorted([*(one.keys() ^ other.keys()), *values])


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(content, dict | list | tuple):
        return {path: content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return {name: value for key, x in items for name, value in _flat(x, f"{path}.{key}").items()}


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


def channels_last(model: torch.nn.Module) -> bool:
    """Whether a network's convolutions lie in memory with the channels last; raises AssertionError where some do."""
    kernels = [x for x in model.parameters() if x.dim() == 4 and x.shape[1] > 1 and x.shape[2] > 1]
    found = {x.is_contiguous(memory_format=torch.channels_last) for x in kernels}
    assert len(found) == 1, "the convolutions are laid out differently"
    return found.pop()
