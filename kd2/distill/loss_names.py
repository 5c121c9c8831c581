"""What losses are called in the log."""

from collections.abc import Collection, Iterable

from torch import nn

from kd2.distill.errors import ConfigError


def loss_names(name: str, loss: nn.Module) -> list[str]:
    """What a loss of ``KD.LOSSES`` is called in the log: ``loss_NAME``, or one name for each of its ``parts``."""
    parts: Iterable[str] = getattr(loss, "parts", ())
    return [f"loss_{name}_{part}" for part in parts] or [f"loss_{name}"]


def refuse_shared(names: list[str], own: Collection[str]) -> None:
    """Raises ConfigError when ``names`` has a name twice, or one of the student's own losses."""
    for name in names:
        if name in own or names.count(name) > 1:
            whose = "the student's own loss is called so" if name in own else "two losses would be called so"
            raise ConfigError(f"KD.LOSSES: {name} cannot be in the log twice: {whose}; choose another name")
