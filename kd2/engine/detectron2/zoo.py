"""Names of Detectron2's model zoo: config files that it brings along, and the URLs of their weights."""

import glob
import os

import detectron2

from kd2.distill import ConfigError, nearest
from kd2.engine.detectron2 import compat

_FOLDER = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")


def config_names() -> list[str]:
    """All names such as COCO-Detection/retinanet_R_101_FPN_3x.yaml, LazyConfig files (.py) among them."""
    found = (os.path.relpath(path, _FOLDER) for path in glob.glob(os.path.join(_FOLDER, "*", "*")))
    return sorted(name for name in found if name.endswith((".yaml", ".py")) and not name.startswith("common"))


def config_path(name: str, key: str) -> str:
    """The packaged file of a name; raises ConfigError naming ``key`` for an unknown one."""
    if name not in config_names():
        raise ConfigError(
            f"{key}: {name!r} is no file beside the config or in the working folder and no config of Detectron2's zoo; "
            f"{nearest(name, config_names())}"
        )
    return os.path.join(_FOLDER, name)


def weights_file(name: str, key: str) -> str:
    """Where the weights of a teacher lie: a path or URL is taken as it is, a name of the zoo has a URL.

    Raises:
        ConfigError: an empty name, or one of which the zoo has no weights; names ``key``.
    """
    if not name:
        raise ConfigError(f"{key} is empty, expected a path, a URL or the name of a zoo config")
    if os.path.isfile(name) or not name.endswith((".yaml", ".yml", ".py")):
        return name
    try:
        return compat.model_zoo().get_checkpoint_url(name)
    except RuntimeError:
        raise ConfigError(f"{key}: the zoo has no weights of {name!r}; {nearest(name, config_names())}") from None
