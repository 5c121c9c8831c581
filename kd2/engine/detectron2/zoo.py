"""Names of Detectron2's model zoo: config files that it brings along, and the URLs of their weights."""

import glob
import importlib
import importlib.resources
import importlib.util
import os
import sys
import types

import detectron2

from kd2.distill import ConfigError, nearest

_FOLDER = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")


def config_names() -> list[str]:
    """All names such as COCO-Detection/retinanet_R_101_FPN_3x.yaml."""
    return sorted(os.path.relpath(path, _FOLDER) for path in glob.glob(os.path.join(_FOLDER, "*", "*.yaml")))


def config_path(name: str, key: str) -> str:
    """The packaged file of a name; raises ConfigError naming ``key`` for an unknown one."""
    path = os.path.join(_FOLDER, name)
    if not name.endswith(".yaml") or not os.path.isfile(path):
        raise ConfigError(
            f"{key}: {name!r} is no file beside the config or in the working folder and no YAML of Detectron2's zoo; "
            f"{nearest(name, config_names())}"
        )
    return path


def weights_url(name: str, key: str) -> str:
    """The URL of the weights of a name; raises ConfigError naming ``key`` when the zoo has none."""
    try:
        return _model_zoo().get_checkpoint_url(name)
    except RuntimeError:
        raise ConfigError(f"{key}: the zoo has no weights of {name!r}; {nearest(name, config_names())}") from None


def _model_zoo() -> types.ModuleType:
    if importlib.util.find_spec("pkg_resources") is not None:
        return importlib.import_module("detectron2.model_zoo")
    # Setuptools dropped the package that Detectron2's zoo imports for one function.
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, path: str(importlib.resources.files(package) / path)
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("detectron2.model_zoo")
    finally:
        del sys.modules["pkg_resources"]  # others look whether the real one is there
