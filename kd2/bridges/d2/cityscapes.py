"""Cityscapes' own scripts for the Detectron2 versions that look for them in Meta's repository."""

import importlib.util
import os
import sys
import types

from kd2.core import ConfigError

_PARENTS = ("deeplearning", "deeplearning.projects", "deeplearning.projects.cityscapesApi")


def provide_scripts(key: str) -> None:
    """Make the public ``cityscapesscripts`` importable below ``deeplearning.projects.cityscapesApi`` too.

    Raises:
        ConfigError: the package is not installed; names ``key``, which asks for it.
    """
    found = importlib.util.find_spec("cityscapesscripts")
    if found is None:
        raise ConfigError(f"{key}: the evaluation of Detectron2's Cityscapes needs the package cityscapesscripts")
    if _PARENTS[0] in sys.modules or importlib.util.find_spec(_PARENTS[0]) is not None:
        return
    for name in _PARENTS:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules[_PARENTS[-1]].__path__ = [os.path.dirname(folder) for folder in found.submodule_search_locations]
