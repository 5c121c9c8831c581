"""Files that are whole or not there: written under a name of their own, then renamed."""

import os
import secrets
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

_WRITER = ("PytorchStreamWriter", "inline_container")  # of torch's writer, in its errors
PARTIAL = r"\.[0-9a-f]{8}\.partial"  # behind the name of the file that was to be; a killed process leaves it


def save_atomically(content: Any, path: str) -> None:
    """``torch.save`` to a temporary neighbor, then rename: the old file survives a crash or a full disk.

    Raises:
        OSError: the folder is not writable or the disk is full; the temporary file is removed.
    """
    _replace(path, lambda file: torch.save(content, file))


def write_atomically(content: str | bytes, path: str) -> None:
    """Write a file all or nothing, as ``save_atomically`` does."""
    _replace(path, lambda file: file.write(content.encode() if isinstance(content, str) else content))


def copy_atomically(source: str, path: str) -> None:
    """Copy a file all or nothing, as ``save_atomically`` does."""
    with open(source, "rb") as original:
        content = original.read()
    _replace(path, lambda file: file.write(content))


def _replace(path: str, write: Callable[[BinaryIO], Any]) -> None:
    temporary = f"{path}.{secrets.token_hex(4)}.partial"
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _WRITER):
            raise _first_of(error, path) from None
        raise


def _first_of(error: RuntimeError, path: str) -> BaseException:
    """What torch's writer met when it ended with ``error``: a full disk, or what another thread or a signal raised."""
    first = error.__context__
    if first is not None and not isinstance(first, OSError):
        return first
    reason = first.strerror if first is not None else str(error).split(". ")[0].strip()
    return OSError(f"{path} could not be written ({reason})")
