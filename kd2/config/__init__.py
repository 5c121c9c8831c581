"""Configuration: Detectron2's key names for every framework, plus the KD node."""

from kd2.config.defaults import add_kd_config
from kd2.config.load import (
    assemble, framework_of, load_teacher_config, merge, overrides, read, resolve_teacher, taps_of, teacher_file,
)
from kd2.config.timm import timm_config
from kd2.config.torchvision import torchvision_config

__all__ = [
    "add_kd_config", "assemble", "framework_of", "load_teacher_config", "merge", "overrides", "read", "resolve_teacher", "taps_of", "teacher_file", "timm_config",
    "torchvision_config",
]
