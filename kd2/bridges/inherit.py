"""``KD.INHERIT``: the last step of a student's initialisation."""

import logging

from fvcore.common.config import CfgNode

from kd2.core import Distiller, inherit

logger = logging.getLogger(__name__)


def initialise(distiller: Distiller, cfg: CfgNode, body: str) -> None:
    """Copy what ``KD.INHERIT`` names from the teacher, and log it. Without a teacher there is nothing to inherit.

    Args:
        body: see ``kd2.core.inherit``.

    Raises:
        ConfigError: see ``kd2.core.inherit``.
    """
    if cfg.KD.INHERIT and distiller.teacher is not None:
        parts, partial = cfg.KD.INHERIT, cfg.KD.INHERIT_PARTIAL
        inherited = inherit(distiller.student, distiller.teacher.model, parts, body, partial)
        logger.info("KD.INHERIT %s: %s", parts, inherited.text())
