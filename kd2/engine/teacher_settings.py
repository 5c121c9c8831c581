"""How frozen teachers run, apart from the student: ``KD.TEACHER.PRECISION``, ``CHANNELS_LAST`` and ``COMPILE``."""

import logging

import torch
from fvcore.common.config import CfgNode

from kd2.distill import Teacher
from kd2.engine.build import BuiltModel
from kd2.engine.mixed_precision import DTYPES

logger = logging.getLogger(__name__)


def settle_teacher(teacher: Teacher, built: BuiltModel, cfg: CfgNode, whole: bool = False) -> None:
    """Bring a frozen teacher into the form in which it runs, and free its parts that no tap needs.

    A classifier keeps all, as it is scored beside the student; so does a detector whose detections are used.

    Args:
        built: the teacher with its probe, which has played its other parts.
        cfg: ``KD.TEACHER``, whose keys are for all teachers.
        whole: it runs to its end.

    Raises:
        ConfigError: a tap inside the part that is compiled.
    """
    if not (whole or "images" in built.classes):
        freed = teacher.free_unused(built.probe.run)
        if freed:
            logger.info("teacher: no tap needs its %s, which is freed", ", ".join(freed))
    if cfg.CHANNELS_LAST:
        teacher.model.to(memory_format=torch.channels_last)
    if cfg.COMPILE:
        teacher.compile()
    teacher.precision = DTYPES.get(cfg.PRECISION)
