"""What distillation is: taps, the scene, the distiller. Imports torch and nothing else."""

from kd2.core.distiller import Distiller, Use, rehearsed, resting
from kd2.core.errors import ConfigError, DataError, NonFiniteLoss, nearest
from kd2.core.finite import FiniteWatch, check_maps, check_weights
from kd2.core.inherit import Inherited, inherit
from kd2.core.scene import AnchorGrid, Scene, match_levels
from kd2.core.schedule import Schedule
from kd2.core.solver import OwnSolver, clip_own, common_groups, own_groups
from kd2.core.tap import Tap, TapError
from kd2.core.taps import Maps, MapSpec, Taps
from kd2.core.teacher import Teacher

__all__ = [
    "AnchorGrid", "ConfigError", "DataError", "Distiller", "FiniteWatch", "Inherited", "MapSpec", "Maps",
    "NonFiniteLoss", "OwnSolver", "Scene", "Schedule", "Tap", "TapError", "Taps", "Teacher", "Use", "check_maps",
    "check_weights", "clip_own", "common_groups", "inherit", "match_levels", "nearest", "own_groups", "rehearsed",
    "resting",
]
