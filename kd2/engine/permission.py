"""Whether a config may be Python, which runs when it is read: ``--allow-code`` on the command line alone says so."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from kd2.distill import ConfigError

_allowed = ContextVar("configs may run code", default=False)


@contextlib.contextmanager
def code_allowed(allowed: bool) -> Iterator[None]:
    """Inside the block a config that is Python is run: ``--allow-code``."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def require_code(path: str) -> None:
    """Raises ConfigError outside of a block that allows code."""
    if not _allowed.get():
        raise ConfigError(f"{path} is Python, which runs when it is read; --allow-code reads it, for a file you trust")
