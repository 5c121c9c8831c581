"""The registry of losses: their names, under which ``kd2.losses.blocks`` finds them.

A loss is a module built as ``Loss(student_specs, teacher_specs, **options)``; ``docs/adding_a_loss.md`` states its
contract. ``register_loss`` gives it a name, which is the ``TYPE`` of a block. The keyword-only arguments of its
constructor are the keys of the block, in capitals, and their type hints say what the config may give them.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fvcore.common.registry import Registry
from torch import nn

from kd2.distill import ConfigError, nearest
from kd2.distill.values import check_value
from kd2.losses.options import options_of

Loss = TypeVar("Loss", bound=type[nn.Module])


@dataclass(frozen=True)
class Entry:
    """A name of the registry.

    Attributes:
        loss: the class.
        share: default of SHARE.
        adapter_lr: default of ADAPTER_LR beside a share.
        presets: options that have another default under this name.
    """

    loss: type[nn.Module]
    share: float
    adapter_lr: float
    presets: Mapping[str, Any]


class _LossRegistry(Registry):
    """fvcore's registry, with a name that is not the name of the class."""

    def add(self, name: str, entry: Entry) -> None:
        if name in self:
            raise ConfigError(f"a loss {name!r} is registered already: {_where(self.get(name).loss)}")
        self._do_register(name, entry)


#: Name -> ``Entry``.
LOSSES = _LossRegistry("LOSS")


def register_loss(
    name: str, default_share: float = 2.0, default_adapter_lr: float = 1.0, **presets: Any
) -> Callable[[Loss], Loss]:
    """Decorator: makes a class a loss under ``name``, which is then a ``TYPE`` of ``KD.LOSSES``.

    One class may have several names, each with a decorator of its own.

    Args:
        name: a Python identifier that no other loss has.
        default_share: the SHARE of a block that gives neither SHARE nor WEIGHT, see ``kd2.distill.weighting``.
        default_adapter_lr: the ADAPTER_LR of a block without WEIGHT: the learning rate of what the loss trains beside
            the student, over the run's. With a WEIGHT it is 1, as in papers' settings.
        presets: options that have another default under this name.

    Raises:
        ConfigError: a name that is taken or no identifier; a preset that is no option or has a wrong value; an option
            without a type hint that can be checked.
    """
    if not name.isidentifier():
        raise ConfigError(f"a loss cannot be registered as {name!r}, expected a Python identifier")

    def register(loss: Loss) -> Loss:
        hints = options_of(loss)
        for option, value in presets.items():
            if option not in hints:
                raise ConfigError(
                    f"{_where(loss)} as {name!r}: there is no option {option!r}; {nearest(option, hints)}"
                )
            check_value(f"{_where(loss)} as {name!r}: {option}", value, hints[option])
        LOSSES.add(name, Entry(loss, default_share, default_adapter_lr, presets))
        return loss

    return register


def loss_types() -> list[str]:
    """The valid values of ``TYPE``, sorted."""
    return sorted(name for name, _ in LOSSES)


def import_losses(modules: Sequence[str]) -> None:
    """Import the modules that register a user's own losses. A config never does so; the command line names them.

    Args:
        modules: names as in ``import NAME``. The current folder is searched too, behind the installed packages.

    Raises:
        ConfigError: a module that cannot be imported, or that registers no loss.
    """
    folder = os.getcwd()
    if modules and folder not in sys.path:
        sys.path.append(folder)
    for module in modules:
        try:
            importlib.import_module(module)
        except ConfigError as error:
            raise ConfigError(f"--import {module}: {error}") from error
        except Exception as error:  # whatever a user's file raises
            hint = f"; give the name of the module, {module[:-3]}" if module.endswith(".py") else ""
            raise ConfigError(f"--import {module}: {type(error).__name__}: {error}{hint}") from error
        if not any(f"{entry.loss.__module__}.".startswith(f"{module}.") for _, entry in LOSSES):
            raise ConfigError(f"--import {module}: it registers no loss; expected a class under @register_loss(NAME)")


def entry_of(name: str, block: Mapping[str, Any]) -> Entry:
    """What is registered under the TYPE of a block of ``KD.LOSSES``, or without one under its name.

    Raises:
        ConfigError: no loss has that name.
    """
    kind = block.get("TYPE", name)
    if not isinstance(kind, str) or kind not in LOSSES:
        key = f"KD.LOSSES.{name}.TYPE" if "TYPE" in block else f"KD.LOSSES.{name}"
        raise ConfigError(f"{key}: there is no loss {kind!r}; {nearest(kind, loss_types())}")
    return LOSSES.get(kind)


def _where(loss: type) -> str:
    return f"{loss.__module__}.{loss.__qualname__}"
