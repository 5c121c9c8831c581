"""The only room that names a framework: one folder a framework, and what they share in files of this level."""

import importlib
from types import ModuleType

from kd2.distill import ConfigError

_FOLDERS = {"detectron2": "d2", "torchvision": "tv", "timm": "tm"}
_INSTALL = {
    "detectron2": "see https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
    "torchvision": "pip install -e '.[torchvision]'",
    "timm": "pip install -e '.[timm]'",
}


def bridge(framework: str, module: str) -> ModuleType:
    """The module (``run``, ``preflight``, ...) of a framework's bridge.

    Raises:
        ConfigError: the framework is not installed.
    """
    try:
        return importlib.import_module(f"kd2.engine.{_FOLDERS[framework]}.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kd2"):
            raise
        raise ConfigError(f"FRAMEWORK: {framework} needs the package {error.name!r}: {_INSTALL[framework]}") from None
