"""Parts of Detectron2 that import packages which are not on PyPI, or no longer: its projects and its model zoo."""

import importlib
import importlib.resources
import importlib.util
import sys
import types

import numpy as np
from detectron2.config import CfgNode
from detectron2.projects.point_rend import add_pointrend_config


def add_project_keys(cfg: CfgNode) -> CfgNode:
    """Add the keys of Detectron2's projects DeepLab, PointRend and Panoptic-DeepLab that training here reads.

    Importing them puts their parts into Detectron2's registries. Panoptic-DeepLab's sets another default of
    SOLVER.OPTIMIZER, which stays as it is; COLOR_AUG_SSD belongs to a script of PointRend's.
    """
    optimizer = cfg.SOLVER.OPTIMIZER
    add_pointrend_config(cfg)
    panoptic_deeplab().add_panoptic_deeplab_config(cfg)
    cfg.SOLVER.OPTIMIZER = optimizer
    cfg.INPUT.pop("COLOR_AUG_SSD")
    return cfg


def panoptic_deeplab() -> types.ModuleType:
    """The project, which imports one function of a package that is not on PyPI: panopticapi."""
    name = "detectron2.projects.panoptic_deeplab"
    if name in sys.modules or importlib.util.find_spec("panopticapi") is not None:
        return importlib.import_module(name)
    parts = {part: types.ModuleType(part) for part in ("panopticapi", "panopticapi.utils")}
    parts["panopticapi.utils"].rgb2id = _rgb2id
    sys.modules |= parts
    try:
        return importlib.import_module(name)
    finally:
        for part in parts:
            del sys.modules[part]  # others look whether the real one is there


def _rgb2id(colors: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, the lowest byte first, as (H, W) ids of segments."""
    return (colors.astype(np.int64) << [0, 8, 16]).sum(2)


def model_zoo() -> types.ModuleType:
    """``detectron2.model_zoo``, which imports one function of a package that setuptools dropped: pkg_resources."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return importlib.import_module("detectron2.model_zoo")
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, path: str(importlib.resources.files(package) / path)
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("detectron2.model_zoo")
    finally:
        del sys.modules["pkg_resources"]  # others look whether the real one is there
