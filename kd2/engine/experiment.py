"""What a runnable task brings; ``kd2.engine.flow`` is written once against it."""

import functools
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from kd2.data.classification.image_dataset import ImageDataset
from kd2.data.detection.records import Records
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.distill import ConfigError, Distiller
from kd2.engine.build import BuiltModel, Step
from kd2.engine.weights.matching import Match
from kd2.networks.group_norm import allow_single_values
from kd2.runs.best import Best

DataSet = Records | SemanticRecords | ImageDataset
Facts = dict[str, tuple[Any, Any]]
Scores = dict[str, float]


class Experiment(ABC):
    """One runnable task: a kind of model under a framework, by a config.

    Args:
        cfg: the whole config, read and checked; its SEED is drawn.
        args: num_gpus, num_machines, machine_rank, dist_url, resume, overwrite, eval_only as on the command line.

    Attributes:
        backbone: prefix of the backbone's key names without its feature pyramid.
        classes: kind -> class names in the order of the model's outputs, as soon as a checkpoint that is evaluated or
            the training data tell them; data sets and teachers that are read later meet them by name.
        first: whether this process is the one of its run that writes.
    """

    backbone = "backbone."

    def __init__(self, cfg: CfgNode, args: Namespace):
        self.cfg, self.args = cfg, args
        self.classes: dict[str, list[str]] = {}

    @property
    @abstractmethod
    def first(self) -> bool: ...

    def config_text(self) -> str:
        """The config of the run as a file that starts it again."""
        return str(self.cfg.dump())

    def leave_unfilled(self) -> None:
        """From now on build a student that a checkpoint fills whole: nothing else is read or fetched for it."""
        model = self.cfg.MODEL
        self.cfg.defrost()
        for node, key, nothing in ((model, "PRETRAINED", False), (model.get("TIMM", {}), "PRETRAINED", False),
                                   (model.get("BACKBONE", {}), "WEIGHTS", "")):  # fmt: skip
            if key in node:
                node[key] = nothing

    @abstractmethod
    def load_data(self, split: str) -> list[Any]:
        """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST``."""

    @abstractmethod
    def load_one(self, name: str, key: str) -> DataSet:
        """The data set ``name`` to look at; ``key`` names it in errors."""

    @abstractmethod
    def check(self, train: list[Any], tests: list[Any]) -> None:
        """Raise ConfigError when data, model and evaluation do not fit; write into the config what the data decide."""

    def build_student(self) -> BuiltModel:
        """The student with its initial weights drawn from SEED, as it trains and predicts."""
        built = self.new_student()
        allow_single_values(built.module)
        if self.cfg.MODEL.CHANNELS_LAST:
            built.module.to(memory_format=torch.channels_last)
        return built

    @abstractmethod
    def new_student(self) -> BuiltModel:
        """The student as its framework builds it, with its initial weights drawn from SEED."""

    @abstractmethod
    def build_teacher(self, node: str = "KD.TEACHER") -> BuiltModel:
        """The teacher of ``node``, a name from ``kd2.config.teacher_blocks``, with its weights."""

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
    def arrivals(self, train: list[Any]) -> tuple[torch.device, Iterator[Callable[[], Any]]]:
        """The device of training, and for each of its batches in turn what brings it there as every step does."""

    @abstractmethod
    def try_out(self, prepared: "Prepared") -> list[str]:
        """What ``fit`` builds before its first step: optimizer and schedule; evaluators, which see the student's output
        for the first image of each test set. Nothing is written.

        Returns:
            The names of the scores of the run's last evaluation; none where they are not known before.
        """

    @abstractmethod
    def fit(self, prepared: "Prepared", saved: str | None, best: Best) -> Scores:
        """Train, from the checkpoint ``saved`` on if there is one; returns the scores of the last evaluation.

        ``begin`` is called as late as possible, before anything in OUTPUT_DIR changes. A signal ends the training
        behind a step, with a checkpoint, where there is one process, and at once where there are several.
        """

    @abstractmethod
    def view(self, data: Any) -> tuple[list[dict], Callable[[dict], Any]]:
        """The records of a training set, and what makes of one of them a training batch of one image on the device.

        Raises:
            ConfigError: the task has no records of pictures.
        """

    @abstractmethod
    def predict(self, model: nn.Module, batch: Any) -> Any:
        """The output of a student in eval mode for a batch, in float32, as the evaluator takes it in."""

    @abstractmethod
    def score(self, student: nn.Module, tests: list[Any]) -> Scores:
        """Evaluate a student on every test set."""

    def find(self, student: nn.Module, data: Any) -> list[dict[str, Any]]:
        """What a detector in eval mode finds on the images of a data set, see ``kd2.engine.coco.detections``.

        Raises:
            ConfigError: the task has no detectors.
        """
        raise ConfigError("this task finds no objects, expected the config of a detector")


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
        precision: what a forward pass runs in, see ``forward_precision``.
    """

    distiller: Distiller
    arrive: Callable[[], Any]
    facts: Facts
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext

    @functools.cached_property
    def batch(self) -> Any:
        """One and the same batch on the device."""
        return self.arrive()
