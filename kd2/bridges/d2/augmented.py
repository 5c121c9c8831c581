"""Evaluation with test-time augmentation: ``TEST.AUG``."""

import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA, PanopticFPN
from torch import nn

from kd2.core import ConfigError

if TYPE_CHECKING:
    from kd2.bridges.d2.trainer import Trainer


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


def evaluate_augmented(trainer: "type[Trainer]", cfg: CfgNode, student: GeneralizedRCNN) -> OrderedDict:
    """Detectron2's evaluation of ``student`` over the sizes and mirror images of ``TEST.AUG``.

    Returns:
        Results under the names of Detectron2's script: ``bbox_TTA``, ``segm_TTA``. Files go to ``inference_TTA``.
    """
    folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
    evaluators = [trainer.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
    results = trainer.test(cfg, GeneralizedRCNNWithTTA(cfg, student), evaluators)
    return OrderedDict((f"{task}_TTA", scores) for task, scores in results.items())
