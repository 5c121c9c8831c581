"""How the tensors of a file meet those of a model: by name, shape and kind of number."""

from typing import Any

import torch
from torch import Tensor, nn

from kd2.distill import ConfigError


class Match:
    """How a checkpoint's tensors met a model's, by name, shape and kind of number.

    Attributes:
        matched: part of the model's parameters and buffers, in elements, that the checkpoint fills; 0 to 1.
        missing, unexpected: names in the model, in the checkpoint, only.
        shapes: names of tensors that cannot be copied, with what differs (in the checkpoint, in the model): their
            shapes, or their types where one holds floats and the other whole numbers.
    """

    def __init__(self, model: nn.Module, state: dict[str, Tensor]):
        # A counter that only momentum-free batch norm reads; files of other tools leave it out.
        own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        self.shapes = differences(state, model.state_dict())
        self.missing = [k for k in own if k not in state]
        self.unexpected = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
        filled = sum(v.numel() for k, v in own.items() if k in state and k not in self.shapes)
        self.matched = filled / max(sum(v.numel() for v in own.values()), 1)

    def text(self) -> str:
        """One line: the matched part, and the first names that did not match."""
        part = self.matched if self.matched == 1 else min(self.matched, 0.999)  # all of it is said of all alone
        notes = [f"{100 * part:.1f} % of the weights matched"]
        for label, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("other shape", self._differing(tuple)),
            ("other type", self._differing(torch.dtype)),
        ):
            if names:
                notes.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(notes)

    def _differing(self, kind: type) -> list[str]:
        return [f"{k} {a} instead of {b}" for k, (a, b) in self.shapes.items() if isinstance(a, kind)]


def differences(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, tuple[Any, Any]]:
    """The attribute ``shapes`` of ``Match`` for a checkpoint's state and a model's own."""
    both = [(name, state[name], own[name]) for name in own if name in state]
    shapes = {name: (tuple(a.shape), tuple(b.shape)) for name, a, b in both if a.shape != b.shape}
    types = {name: (a.dtype, b.dtype) for name, a, b in both if a.is_floating_point() != b.is_floating_point()}
    return types | shapes


def load_state(model: nn.Module, state: dict[str, Tensor], source: str, key: str, partial: bool) -> Match:
    """Load what fits by name and shape.

    Names that only the file has are a mismatch too: a ResNet-34's weights include all that a ResNet-18 asks for.

    Args:
        source: the file, for errors. key: the config key that named it.
        partial: whether anything less than an exact match is accepted.

    Raises:
        ConfigError: no exact match and ``partial`` is false, or nothing matched at all. The model is then unchanged.
    """
    match = Match(model, state)
    if match.matched == 0 or (not partial and (match.matched < 1 or match.unexpected or match.shapes)):
        raise ConfigError(f"{key}: {source} does not fit the model: {match.text()}")
    model.load_state_dict({k: v for k, v in state.items() if k not in match.shapes}, strict=False)
    return match
