"""Which files may run code when they are read: the command line alone permits it, no config."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from kd2.distill import ConfigError

_pickles = ContextVar("pickles may run code", default=False)
_code = ContextVar("configs may run code", default=False)


@contextlib.contextmanager
def permitted(*, pickles: bool | None = None, code: bool | None = None) -> Iterator[None]:
    """What is permitted inside the block; None leaves it as it is outside.

    Args:
        pickles: a file that holds more than plain data is unpickled all the same: ``--allow-pickle``.
        code: a config that is Python is run: ``--allow-code``.
    """
    given = ((_pickles, pickles), (_code, code))
    tokens = [(kind, kind.set(allowed)) for kind, allowed in given if allowed is not None]
    try:
        yield
    finally:
        for kind, token in tokens:
            kind.reset(token)


def require_pickles(where: str, found: str) -> None:
    """Raises ConfigError outside of a block that permits pickles.

    Args:
        where: config key and file.
        found: what in it would run code.
    """
    if not _pickles.get():
        raise ConfigError(
            f"{where} is no checkpoint of plain tensors: loading it would run code ({found}); "
            "--allow-pickle loads it, for a file you trust"
        )


def require_code(path: str) -> None:
    """Raises ConfigError outside of a block that permits code."""
    if not _code.get():
        raise ConfigError(f"{path} is Python, which runs when it is read; --allow-code reads it, for a file you trust")
