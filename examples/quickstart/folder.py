"""The output folder of a quick start: one that it made, so nothing of the user's is written over."""

import os
import re
from collections.abc import Sequence

from kd2.distill import ConfigError
from kd2.runs.folder import check_writable

# An empty file of this name lies in every folder that a quick start made.
_MARK = "quickstart.mark"
_DATA = re.compile(r"(train|val)(\.json|/\d{5}\.png)")


def own_folder(output: str, inputs: Sequence[str], overwrite: bool) -> None:
    """Make ``output`` a folder to write into; with ``overwrite`` the data of an earlier quick start are removed.

    Raises:
        ConfigError: it is not writable, holds other things, or one of the ``inputs`` lies in it.
    """
    check_writable(output)
    mark = os.path.join(output, _MARK)
    made, full = os.path.exists(mark), bool(set(os.listdir(output)) - {_MARK})
    if full and not made:
        raise ConfigError(f"--output {output} is not empty and no quick start made it; name a new folder")
    if full and not overwrite:
        raise ConfigError(f"--output {output} holds a quick start; --overwrite replaces it, another folder keeps it")
    inside = [path for path in inputs if os.path.realpath(path).startswith(os.path.realpath(output) + os.sep)]
    if inside:
        raise ConfigError(f"--data {inside[0]} lies in --output {output}; name another folder")
    open(mark, "a").close()
    data = os.path.join(output, "data")
    for folder, _, names in os.walk(data):
        for path in (os.path.join(folder, name) for name in names):
            if _DATA.fullmatch(os.path.relpath(path, data)):
                os.remove(path)
