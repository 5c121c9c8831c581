"""Where the files lie that a config names.

A relative path is looked for beside the config file that is run, then in the working folder. One that is in neither
place stays as it is, for whoever reads it to report. URLs and names of a model zoo pass through. Data sets lie below
``$DETECTRON2_DATASETS``, and ``OUTPUT_DIR`` starts at the working folder.
"""

import importlib.resources
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from kd2.config.keys import KEYS
from kd2.distill import ConfigError, nearest

SCHEME, ZOO = "kd2://", "detectron2://"
# The config that a run leaves in its folder.
RUN_CONFIG = "config.yaml"
_CONFIGS = (".yaml", ".py")

_TEACHER_KEYS = ("CONFIG_FILE", "WEIGHTS")


def config_path(name: str) -> str:
    """The file that ``name`` means: see ``packaged_config``; otherwise the path itself."""
    return packaged_config(name) if is_packaged(name) else name


def is_packaged(name: str) -> bool:
    """Whether ``name`` is one for ``packaged_config``. Detectron2's weights have addresses of the same form."""
    return name.startswith(SCHEME) or name.startswith(ZOO) and name.endswith(_CONFIGS)


def packaged_config(name: str) -> str:
    """The path of a config that a package brings.

    Args:
        name: ``kd2://bccd/imitation.yaml``, or the part behind ``kd2://``; of Detectron2's zoo
            ``detectron2://COCO-Detection/retinanet_R_50_FPN_1x.yaml``.

    Raises:
        ConfigError: no such config, or a name that leads out of the folder of configs; Detectron2 is not installed.
    """
    scheme, inside = (ZOO if name.startswith(ZOO) else SCHEME), name.removeprefix(SCHEME).removeprefix(ZOO)
    folder = _zoo_folder(name) if scheme == ZOO else _folder()
    path = folder / inside
    if ".." in Path(inside).parts or Path(inside).is_absolute() or not path.is_file() or path.suffix not in _CONFIGS:
        known = sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.suffix in _CONFIGS)
        raise ConfigError(f"{scheme}{inside}: the package has no such config; {nearest(inside, known)}")
    return str(path)


def _zoo_folder(name: str) -> Path:
    """The configs that Detectron2 brings; it is not imported."""
    package = importlib.util.find_spec("detectron2")
    if package is None or not package.submodule_search_locations:
        raise ConfigError(f"{name}: Detectron2, which brings this config, is not installed")
    return Path(package.submodule_search_locations[0]) / "model_zoo" / "configs"


def _folder() -> Path:
    """The folder ``kd2.configs`` of an installed package, or ``configs`` of a checkout."""
    package = Path(str(importlib.resources.files("kd2")))
    checkout = package.parent / "configs"
    if not (package / "configs").is_dir() and (package.parent / "setup.py").is_file() and checkout.is_dir():
        return checkout
    return package / "configs"


def found_path(name: str, config_file: str) -> str | None:
    """The absolute path of ``name`` beside ``config_file`` or in the working folder; None where neither has it.

    A name of a packaged config is that file; see ``packaged_config`` for it, and for what it raises.
    """
    if is_packaged(name):
        return packaged_config(name)
    if not name or "://" in name:
        return None
    for folder in (os.path.dirname(os.path.abspath(config_file)), os.getcwd()):
        path = os.path.normpath(os.path.join(folder, os.path.expanduser(name)))
        if os.path.exists(path):
            return path
    return None


def resolve_paths(cfg: CfgNode, config_file: str) -> None:
    """Make every path of ``cfg`` absolute that exists beside ``config_file`` or in the working folder."""
    for node, key in _places(cfg):
        node[key] = found_path(node[key], config_file) or node[key]


def _places(cfg: CfgNode) -> Iterator[tuple[dict[str, Any], str]]:
    """Node and key of every path, unless the value is a name in the key's own language."""
    for key in KEYS[cfg.FRAMEWORK].values():
        if not key.path:
            continue
        *parents, last = key.name.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        if node[last] != "IMAGENET":
            yield node, last
    for block in cfg.KD.get("TEACHERS", []):
        yield from ((block, key) for key in _TEACHER_KEYS)
