"""Evaluation with test-time augmentation: ``TEST.AUG``."""

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from torch import nn

from kd2.distill import ConfigError


def check_augmentation(cfg: CfgNode, student: nn.Module) -> None:
    """Raises ConfigError for ``TEST.AUG.ENABLED`` with a model whose boxes or masks Detectron2 does not merge."""
    if not cfg.TEST.AUG.ENABLED:
        return
    if not isinstance(student, GeneralizedRCNN) or isinstance(student, PanopticFPN):
        kind = type(student).__name__
        raise ConfigError(f"TEST.AUG.ENABLED is True, {kind} has no test-time augmentation: it takes a GeneralizedRCNN")
    for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
        if cfg.MODEL[key]:
            raise ConfigError(f"TEST.AUG.ENABLED and MODEL.{key} are both True: only one of them can be")
