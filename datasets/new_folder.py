"""For the preparation scripts beside it: a folder that appears only when it is complete."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator

from kd2.distill import DataError


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """A folder to write into, which becomes ``path`` at the end of the block; after an error nothing is left.

    Raises:
        DataError: ``path`` exists.
    """
    if os.path.lexists(path):
        raise DataError(f"{path} exists, expected a folder still to be made")
    partial = f"{path.rstrip('/')}.{secrets.token_hex(4)}.partial"
    os.makedirs(partial)
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
