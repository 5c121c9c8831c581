"""Student and teachers of an experiment, built, filled and joined: the only place where both sides are at hand."""

import logging
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from torch import nn

from kd2.config import teacher_blocks
from kd2.distill import ConfigError, Distiller
from kd2.engine.build import BuiltModel, assemble, check_pair, facts_of
from kd2.engine.experiment import Experiment, Facts
from kd2.engine.further_teachers import FurtherTeacher
from kd2.engine.init_from_teacher import init_from_teacher
from kd2.engine.teacher_settings import settle_teacher
from kd2.engine.weights.checkpoint import saved_classes
from kd2.losses import active_losses
from kd2.networks.group_norm import allow_single_values
from kd2.networks.narrow_maps import widen_narrow_maps

logger = logging.getLogger(__name__)

# Where the parts of detectors keep the score below which they give no detection: Detectron2's, torchvision's.
_THRESHOLDS = ("test_score_thresh", "score_thresh")


def build_distiller(
    experiment: Experiment, with_weights: bool = True, whole_teacher: bool = False
) -> tuple[Distiller, Facts]:
    """The distiller of a config, and facts about its two models. Without losses that count nothing of the teacher is
    read.

    The student is built first and the rest draws nothing from its random stream, so it starts like the plain model of
    the same seed.

    Args:
        with_weights: fill the student from ``MODEL.WEIGHTS`` and ``KD.INIT_FROM_TEACHER``.
        whole_teacher: keep the parts of the teacher that no tap needs.

    Raises:
        ConfigError: what the parts raise; a ``KD.UNLABELED.SCORE_THRESH`` below the teacher's own.
    """
    cfg = experiment.cfg
    student = experiment.build_student()
    if cfg.SOLVER.AMP.ENABLED:
        widen_narrow_maps(student.module)
    blocks = active_losses(cfg.KD.LOSSES)
    parts = cfg.KD.get("INIT_FROM_TEACHER", "")  # classifiers have no such key
    if not blocks:
        step = experiment.step(student.module, None, False)
        distiller, facts = Distiller(student.module, run_student=step.run_student, seed=cfg.SEED), {}
        if with_weights:
            _fill(experiment, student)
        return distiller, facts
    with torch.random.fork_rng(devices=[]):
        teacher = experiment.build_teacher()
        allow_single_values(teacher.module)
        check_pair(student, teacher, blocks, parts, several_teachers(cfg))
        step = experiment.step(student.module, teacher, student.color_order != teacher.color_order)
        further = _further(experiment, student) if several_teachers(cfg) else []
        distiller = assemble(student, teacher, step, blocks, cfg.SEED, cfg.KD.TEACHER.BATCH_STATISTICS, further)
        if distiller.whole_teacher:
            _check_least_score(teacher.module, cfg.KD.UNLABELED.SCORE_THRESH)
    if with_weights:
        student = _fill(experiment, student)
        if parts:
            partial = cfg.KD.INIT_FROM_TEACHER_PARTIAL
            copied = init_from_teacher(student.module, teacher.module, parts, experiment.backbone, partial)
            logger.info("KD.INIT_FROM_TEACHER %s: %s", parts, copied.text())
    settle_teacher(distiller.teacher, teacher, cfg.KD.TEACHER, whole_teacher or distiller.whole_teacher)
    for other, built in zip(distiller.others, further, strict=True):
        settle_teacher(other.teacher, built.model, cfg.KD.TEACHER)
    return distiller, facts_of(student, teacher)


def several_teachers(cfg: CfgNode) -> bool:
    """Whether further teachers teach losses of their own; those of a classifier are one teacher with the first."""
    return cfg.FRAMEWORK != "timm" and len(teacher_blocks(cfg)) > 1


def _further(experiment: Experiment, student: BuiltModel) -> list[FurtherTeacher]:
    """The teachers of ``KD.TEACHERS``."""
    found = []
    for number, (node, block) in enumerate(list(teacher_blocks(experiment.cfg).items())[1:], 2):
        teacher = experiment.build_teacher(node)
        allow_single_values(teacher.module)
        check_pair(student, teacher, {})
        run = experiment.step(student.module, teacher, student.color_order != teacher.color_order).run_teacher
        found.append(FurtherTeacher(teacher, run, f"teacher{number}", node, block.get("WEIGHT", 1.0)))
    return found


def least_score(detector: nn.Module) -> float:
    """The score below which the evaluation of a detector gives nothing."""
    return max(float(vars(part).get(name, 0.0)) for part in detector.modules() for name in _THRESHOLDS)


def _check_least_score(teacher: nn.Module, least: float) -> None:
    """Refuse a score below that of the teacher's own evaluation, which never gives what lies between."""
    own = least_score(teacher)
    if least < own:
        raise ConfigError(
            f"KD.UNLABELED.SCORE_THRESH is {least}, but the teacher finds nothing below {own}, the threshold of its "
            "own evaluation; raise the one, or lower the other by KD.TEACHER.OPTS"
        )


def _fill(experiment: Experiment, student: BuiltModel) -> BuiltModel:
    path = experiment.cfg.MODEL.WEIGHTS
    if not path:
        _tell_frozen(experiment.cfg.MODEL, student.module)
        return student
    for kind, names in saved_classes(path, "MODEL.WEIGHTS").items():
        wanted = experiment.classes.get(kind, [])
        if names and wanted and list(names) != list(wanted):
            logger.warning("MODEL.WEIGHTS: its head was trained for the %s %s, this run has %s", kind, names, wanted)
    match = experiment.load_weights(student.module, path, "MODEL.WEIGHTS", partial=True)
    logger.info("MODEL.WEIGHTS: %s", match.text())
    return replace(student, matched=match.matched)


def _tell_frozen(model: CfgNode, student: nn.Module) -> None:
    """Warn of the parts of a student without any weights that will stay as they were drawn."""
    if not any(model.get(part, {}).get(key) for part, key in (("BACKBONE", "WEIGHTS"), ("TIMM", "PRETRAINED"))):
        frozen = [
            name for name, x in student.named_parameters() if name.startswith("backbone.") and not x.requires_grad
        ]
        frozen += [name for name, x in student.named_modules() if type(x).__name__.startswith("FrozenBatchNorm")]
        if frozen:
            logger.warning(
                "MODEL.WEIGHTS is empty, but %d parts of the backbone are frozen (%s, ...) and stay as they were "
                "drawn: give it weights, or FREEZE_AT 0 and a norm that learns",
                len(frozen),
                frozen[0],
            )
