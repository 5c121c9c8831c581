"""One declaration a key: default, allowed values, meaning and readers."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Key:
    """A key of a config. The comment ``#:`` above its declaration says what it means: ``docs/config.md`` is made of it.

    Attributes:
        name: in full, such as ``SOLVER.BASE_LR``.
        default: its value where nothing is said; Detectron2's own default stands where Detectron2 has the key.
        kind: its values, as a hint of ``kd2.distill.values``. ``dict``: a group that takes any keys.
        readers: the student's architectures that read it, where not all of its framework do.
        path: whether it names a file or folder, which is looked for beside the config file.
    """

    name: str
    default: Any
    kind: Any
    readers: tuple[str, ...] = ()
    path: bool = False


def add_defaults(cfg: CfgNode, keys: Iterable[Key]) -> CfgNode:
    """Give ``cfg`` the keys that it lacks, with their defaults, in nodes of its own class; returns ``cfg``."""
    make = type(cfg)
    for key in keys:
        *parents, last = key.name.split(".")
        node = cfg
        for parent in parents:
            node = node.setdefault(parent, make())
        if last not in node:
            node[last] = make(new_allowed=True) if key.kind is dict else copy.deepcopy(key.default)
    return cfg
