"""Cityscapes' own scripts: where Detectron2 looks for them, and beside a NumPy that is newer than they are."""

import importlib.util
import os
import sys
import types

import numpy as np
from numpy.typing import ArrayLike

from kd2.distill import ConfigError

_PARENTS = ("deeplearning", "deeplearning.projects", "deeplearning.projects.cityscapesApi")


def provide_scripts(key: str) -> None:
    """Make the public ``cityscapesscripts`` importable below ``deeplearning.projects.cityscapesApi`` too.

    Some versions of Detectron2 look for them there, in Meta's repository. The scripts call ``numpy.in1d``, which NumPy
    2.4 dropped: it comes back where it is missing.

    Raises:
        ConfigError: the package is not installed; names ``key``, which asks for it.
    """
    found = importlib.util.find_spec("cityscapesscripts")
    if found is None:
        raise ConfigError(f"{key}: the evaluation of Detectron2's Cityscapes needs the package cityscapesscripts")
    if not hasattr(np, "in1d"):
        np.in1d = _in1d
    if _PARENTS[0] in sys.modules or importlib.util.find_spec(_PARENTS[0]) is not None:
        return
    for name in _PARENTS:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules[_PARENTS[-1]].__path__ = [os.path.dirname(folder) for folder in found.submodule_search_locations]


def check_instances(key: str) -> None:
    """Raises ConfigError, naming ``key``, for a NumPy whose counts the scripts for instances cannot write as JSON."""
    if not isinstance(np.count_nonzero([1]), int):
        raise ConfigError(
            f"{key}: Cityscapes' evaluation of instances writes NumPy's counts as JSON, which fails with NumPy "
            f"{np.__version__}; install an older one, such as 1.26"
        )


def _in1d(values: ArrayLike, among: ArrayLike, invert: bool = False) -> np.ndarray:
    return np.isin(np.ravel(values), among, invert=invert)
