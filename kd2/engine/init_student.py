"""``KD.INIT_FROM_TEACHER``: the last step of a student's initialization."""

import logging

from fvcore.common.config import CfgNode

from kd2.distill import Distiller
from kd2.engine.init_from_teacher import init_from_teacher

logger = logging.getLogger(__name__)


def initialize(distiller: Distiller, cfg: CfgNode, body: str) -> None:
    """Copy what ``KD.INIT_FROM_TEACHER`` names from the teacher, and log it. Without a teacher there is nothing to inherit.

    Args:
        body: see ``kd2.engine.init_from_teacher``.

    Raises:
        ConfigError: see ``kd2.engine.init_from_teacher``.
    """
    if cfg.KD.INIT_FROM_TEACHER and distiller.teacher is not None:
        parts, partial = cfg.KD.INIT_FROM_TEACHER, cfg.KD.INIT_FROM_TEACHER_PARTIAL
        inherited = init_from_teacher(distiller.student, distiller.teacher.model, parts, body, partial)
        logger.info("KD.INIT_FROM_TEACHER %s: %s", parts, inherited.text())
