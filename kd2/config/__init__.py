"""Configuration: Detectron2's key names for every framework, plus the KD node."""

from kd2.config.defaults import add_kd_config
from kd2.config.load import framework_of, merge, overrides, read, resolve_teacher, teacher_file
from kd2.config.timm import timm_config
from kd2.config.torchvision import torchvision_config

__all__ = [
    "add_kd_config", "framework_of", "merge", "overrides", "read", "resolve_teacher", "teacher_file", "timm_config",
    "torchvision_config",
]


def taps_of(cfg, side):
    own = list(cfg.KD[side].TAPS)
    return (own, f"KD.{side}.TAPS") if own else (list(cfg.KD.get("TAPS", [])), "KD.TAPS")


def load(loaded, config_file):
    cfg = merge(timm_config() if loaded.get("FRAMEWORK") == "timm" else torchvision_config(), loaded)
    resolve_teacher(cfg, config_file)
    return cfg


def load_teacher_config(cfg, node):
    path = cfg.KD.TEACHER.CONFIG_FILE
    loaded = read(path, list(cfg.KD.TEACHER.OPTS))
    return merge(timm_config() if loaded.get("FRAMEWORK") == "timm" else torchvision_config(), loaded)
