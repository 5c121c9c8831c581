"""For the preparation scripts beside it: a folder that appears only when it is complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from kd2.distill import DataError


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """A folder to write into, which becomes ``path`` at the end of the block; raises DataError when ``path`` exists."""
    if os.path.exists(path):
        raise DataError(f"{path} exists, expected a folder still to be made")
    partial = f"{path.rstrip('/')}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    yield partial
    os.rename(partial, path)
