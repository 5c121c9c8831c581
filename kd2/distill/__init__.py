"""What distillation is: taps, batch info, the distiller. Imports torch and nothing else."""

from kd2.distill.average import WeightAverage, average_of
from kd2.distill.batch_info import IGNORE_LABEL, AnchorGrid, BatchInfo, BoxCoder, BoxCoding, Proposals, match_levels
from kd2.distill.distiller import Distiller, LossConfig, RunStudent, RunTeacher, call, no_batch_info
from kd2.distill.errors import USER_ERRORS, ConfigError, DataError, NonFiniteLoss, naming, nearest
from kd2.distill.finite import NaNMonitor, check_maps, check_weights
from kd2.distill.grids import on_students_grids
from kd2.distill.loss_names import loss_names
from kd2.distill.schedule import Schedule
from kd2.distill.shared_classes import SharedClasses, shared_channels
from kd2.distill.solver import ParameterGroupOverride, clip_overrides, loss_groups, override_groups
from kd2.distill.tap import Tap, TapError
from kd2.distill.taps import FeatureSpec, Maps, Probe, Taps, eval_mode, probed
from kd2.distill.teacher import OtherTeacher, Teacher
from kd2.distill.unlabeled import check_inside, sees_all

__all__ = [
    "IGNORE_LABEL",
    "USER_ERRORS",
    "AnchorGrid",
    "BatchInfo",
    "BoxCoder",
    "BoxCoding",
    "ConfigError",
    "DataError",
    "Distiller",
    "FeatureSpec",
    "LossConfig",
    "Maps",
    "NaNMonitor",
    "NonFiniteLoss",
    "OtherTeacher",
    "ParameterGroupOverride",
    "Probe",
    "Proposals",
    "RunStudent",
    "RunTeacher",
    "Schedule",
    "SharedClasses",
    "Tap",
    "TapError",
    "Taps",
    "Teacher",
    "WeightAverage",
    "average_of",
    "call",
    "check_inside",
    "check_maps",
    "check_weights",
    "clip_overrides",
    "eval_mode",
    "loss_groups",
    "loss_names",
    "match_levels",
    "naming",
    "nearest",
    "no_batch_info",
    "on_students_grids",
    "override_groups",
    "probed",
    "sees_all",
    "shared_channels",
]
