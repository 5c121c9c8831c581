"""Config files that Detectron2 brings along, by the names of its model zoo."""

import glob
import os

import detectron2

from kd2.distill import ConfigError, nearest

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
