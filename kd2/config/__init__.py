"""Configuration: Detectron2's key names for every framework, plus the KD node."""

from kd2.config.load import (
    add_kd_config,
    assemble,
    check,
    defaults_of,
    load,
    load_teacher_config,
    taps_of,
    teacher_blocks,
)
from kd2.config.merging import merge
from kd2.config.paths import config_path, packaged_config, resolve_paths
from kd2.config.reading import framework_of, read
from kd2.config.training import train_size

__all__ = [
    "add_kd_config",
    "assemble",
    "check",
    "config_path",
    "defaults_of",
    "framework_of",
    "load",
    "load_teacher_config",
    "merge",
    "packaged_config",
    "read",
    "resolve_paths",
    "taps_of",
    "teacher_blocks",
    "train_size",
]
