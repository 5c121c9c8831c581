"""What a runnable task brings, and training, evaluation and dry run, written once against it."""

import contextlib
import functools
import logging
import os
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from kd2.distill import ConfigError, Distiller, Schedule
from kd2.engine.build import BuiltModel, Step, assemble, check_pair, facts_of
from kd2.engine.checkpoint import Match, last_checkpoint, saved_classes, write_atomically
from kd2.engine.init_from_teacher import init_from_teacher
from kd2.engine.preflight import start_up
from kd2.losses import active_losses

logger = logging.getLogger(__name__)

Facts = dict[str, tuple[Any, Any]]
Scores = dict[str, float]


class Experiment(ABC):
    """One runnable task: a kind of model under a framework, by a config.

    Args:
        cfg: the whole config, read and checked; its SEED is drawn.
        args: num_gpus, num_machines, machine_rank, dist_url, resume, eval_only as in Detectron2's scripts.

    Attributes:
        backbone: prefix of the backbone's key names without its feature pyramid.
        classes: kind -> class names in the order of the model's outputs, as soon as a checkpoint that is evaluated or
            the training data tell them; data sets and teachers that are read later meet them by name.
    """

    backbone = "backbone."

    def __init__(self, cfg: CfgNode, args: Namespace):
        self.cfg, self.args = cfg, args
        self.classes: dict[str, list[str]] = {}

    @abstractmethod
    def load_data(self, split: str) -> list[Any]:
        """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST``."""

    @abstractmethod
    def check(self, train: list[Any], tests: list[Any]) -> None:
        """Raise ConfigError when data, model and evaluation do not fit; write into the config what the data decide."""

    @abstractmethod
    def build_student(self) -> BuiltModel:
        """The student with its initial weights drawn from SEED."""

    @abstractmethod
    def build_teacher(self) -> BuiltModel:
        """The teacher of KD.TEACHER with its weights."""

    @abstractmethod
    def step(self, student: nn.Module, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        """How a training step runs; ``reverse_colors``: the teacher reads the channels in the other order."""

    @abstractmethod
    def load_weights(self, student: nn.Module, path: str, key: str, partial: bool) -> Match:
        """Fill the student from a file; ``key`` names it in errors, ``partial`` accepts less than an exact match."""

    @abstractmethod
    def class_names(self, data: list[Any]) -> dict[str, list[str]]:
        """Names of the classes of the data sets by kind, in the order of the model's outputs."""

    @abstractmethod
    def first_batch(self, train: list[Any]) -> tuple[torch.device, Callable[[], Any]]:
        """The device of training, and what brings its first batch there as every step does."""

    @abstractmethod
    def fit(self, prepared: "Prepared", saved: str | None) -> Scores:
        """Train, from the checkpoint ``saved`` on if there is one; returns the scores of the last evaluation."""

    @abstractmethod
    def score(self, student: nn.Module, tests: list[Any]) -> Scores:
        """Evaluate a student on every test set."""


@dataclass(frozen=True)
class Prepared:
    """What training starts from: a distiller in train mode, data, facts for the report, and class names."""

    distiller: Distiller
    train: list[Any]
    tests: list[Any]
    facts: Facts
    classes: dict[str, list[str]]


@dataclass(frozen=True)
class DryRun:
    """A distiller in train mode on its device whose losses all count, one training batch there, facts for the report.

    Attributes:
        arrive: brings the loader's batch to the device as every training step does, mixing included; a batch each call.
        facts: name -> (student's, teacher's); None where a side has none: classes, color order, matched weights, ...
    """

    distiller: Distiller
    arrive: Callable[[], Any]
    facts: Facts

    @functools.cached_property
    def batch(self) -> Any:
        """One and the same batch on the device."""
        return self.arrive()


def run(experiment: Experiment) -> Scores:
    """Train, or with ``args.eval_only`` evaluate; returns the scores of the last evaluation."""
    return evaluate(experiment) if experiment.args.eval_only else train(experiment)


def train(experiment: Experiment) -> Scores:
    """Train from the beginning, or with ``args.resume`` from the last checkpoint of OUTPUT_DIR."""
    cfg = experiment.cfg
    saved = last_checkpoint(cfg.OUTPUT_DIR) if experiment.args.resume else None
    return experiment.fit(prepare(experiment, saved is not None), saved)


def evaluate(experiment: Experiment) -> Scores:
    """Score the student of ``MODEL.WEIGHTS``, or with ``args.resume`` of the last checkpoint. No teacher is built."""
    cfg = experiment.cfg
    saved = last_checkpoint(cfg.OUTPUT_DIR) if experiment.args.resume else None
    if not (saved or cfg.MODEL.WEIGHTS):
        raise ConfigError("MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate")
    weights, key = (saved, "--resume") if saved else (cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    experiment.classes = saved_classes(weights, key)
    if not experiment.classes:
        logger.warning("%s: %s tells no class names, its outputs are taken for the test set's in order", key, weights)
    tests = experiment.load_data("TEST")
    experiment.check([], tests)
    student = experiment.build_student().module
    experiment.load_weights(student, weights, key, partial=False)
    return experiment.score(student, tests)


@contextlib.contextmanager
def dry_run(experiment: Experiment) -> Iterator[DryRun]:
    """Everything up to the first step, on the road of training. Raises like training would.

    Every loss counts fully from the first batch on, whatever its schedule: what is timed here is a distilled step.
    """
    if not active_losses(experiment.cfg.KD.LOSSES):
        raise ConfigError("KD.LOSSES has no loss with a weight other than 0: there is no distillation to look at")
    prepared = prepare(experiment, resuming=False)
    distiller = prepared.distiller
    distiller.configs = {
        name: replace(config, schedule=Schedule(config.schedule.weight)) for name, config in distiller.configs.items()
    }
    device, arrive = experiment.first_batch(prepared.train)
    yield DryRun(distiller.to(device), arrive, prepared.facts)


def prepare(experiment: Experiment, resuming: bool) -> Prepared:
    """Data, checks, models and losses; the student has ``MODEL.WEIGHTS``, then what it takes from its teacher.

    Args:
        resuming: a checkpoint follows, so the student keeps its drawn weights.
    """
    cfg = experiment.cfg
    data = experiment.load_data("TRAIN")
    tests = experiment.load_data("TEST") if cfg.DATASETS.TEST else []
    experiment.check(data, tests)
    distiller, facts = build_distiller(experiment, with_weights=not resuming)
    for line in start_up(distiller):
        logger.info(line)
    return Prepared(distiller.train(), data, tests, facts, experiment.class_names([*data, *tests]))


def build_distiller(experiment: Experiment, with_weights: bool = True) -> tuple[Distiller, Facts]:
    """The distiller of a config, and facts about its two models. Without losses that count nothing of the teacher is
    read.

    The student is built first and the rest draws nothing from its random stream, so it starts like the plain model of
    the same seed.

    Args:
        with_weights: fill the student from ``MODEL.WEIGHTS`` and ``KD.INIT_FROM_TEACHER``.
    """
    cfg = experiment.cfg
    student = experiment.build_student()
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
        check_pair(student, teacher, blocks, parts)
        step = experiment.step(student.module, teacher, student.color_order != teacher.color_order)
        distiller = assemble(student, teacher, step, blocks, cfg.SEED, cfg.KD.TEACHER.BATCH_STATISTICS)
    if with_weights:
        student = _fill(experiment, student)
        if parts:
            partial = cfg.KD.INIT_FROM_TEACHER_PARTIAL
            copied = init_from_teacher(student.module, teacher.module, parts, experiment.backbone, partial)
            logger.info("KD.INIT_FROM_TEACHER %s: %s", parts, copied.text())
    return distiller, facts_of(student, teacher)


def write_config(cfg: CfgNode) -> None:
    """Leave the whole config of a run in its output folder."""
    write_atomically(cfg.dump(), os.path.join(cfg.OUTPUT_DIR, "config.yaml"))


def _fill(experiment: Experiment, student: BuiltModel) -> BuiltModel:
    path = experiment.cfg.MODEL.WEIGHTS
    if not path:
        return student
    match = experiment.load_weights(student.module, path, "MODEL.WEIGHTS", partial=True)
    logger.info("MODEL.WEIGHTS: %s", match.text())
    return replace(student, matched=match.matched)
