"""What every task brings that Lightning trains."""

import contextlib
import functools
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd2.config import taps_of
from kd2.data.stream import mapped
from kd2.distill import Distiller, Probe
from kd2.engine.build import BuiltModel
from kd2.engine.experiment import Experiment, Prepared, Scores
from kd2.engine.flow import begin
from kd2.engine.lightning.module import DistillModule, Evaluator, read_resumable
from kd2.engine.lightning.teacher import TeacherSource, load_teacher, teacher_sources
from kd2.engine.lightning.trainer import build_trainer, uses_gpu
from kd2.engine.weights.checkpoint import read_weights
from kd2.engine.weights.matching import Match, load_state
from kd2.runs.best import Best
from kd2.runs.endings import Interrupted, patient
from kd2.runs.folder import FINAL


class LightningExperiment(Experiment):
    """An experiment under Lightning's Trainer.

    Attributes:
        callbacks: more of Lightning's; a progress bar among them takes the place of the usual one.
    """

    callbacks: tuple[lightning.Callback, ...] = ()

    @functools.cached_property
    def teachers(self) -> list[TeacherSource]:
        """The teachers that the config names, each with its own config."""
        return teacher_sources(self.cfg)

    @abstractmethod
    def train_loader(self, data: list[Any], start: int, rank: int, ranks: int) -> DataLoader:
        """An endless loader of this process's batches without the first ``start`` ones."""

    @abstractmethod
    def test_loader(self, data: Any, rank: int, ranks: int) -> DataLoader:
        """A loader of this process's share of a test set."""

    @abstractmethod
    def evaluator(self, data: Any) -> Evaluator:
        """A new evaluator of a test set."""

    def module(self, distiller: Distiller, train: list[Any], classes: dict[str, list[str]]) -> DistillModule:
        """The Lightning module of a distiller."""
        return DistillModule(distiller, self.cfg, classes, self.evaluator, self.predict)

    @property
    def first(self) -> bool:
        return self.args.machine_rank == 0 and rank_zero_only.rank == 0

    def fit(self, prepared: Prepared, saved: str | None, best: Best) -> Scores:
        cfg, tests = self.cfg, prepared.tests
        module = self.module(prepared.distiller, prepared.train, prepared.classes)
        module.best = best
        trainer = build_trainer(cfg, self.args, self.callbacks)
        start = read_resumable(saved)["iteration"] + 1 if saved else 0
        rank, ranks = trainer.global_rank, trainer.world_size
        torch.manual_seed(cfg.SEED + rank)
        batches = self.train_loader(prepared.train, start * cfg.SOLVER.ACCUMULATE, rank, ranks)
        during = None
        if tests and cfg.TEST.EVAL_PERIOD:
            module.test = tests[0]
            during = self.test_loader(tests[0], rank, ranks)
        module.configure_optimizers()  # its errors come before the first file
        begin(self, saved, best)
        finished = saved is not None and (best.exhausted or start == cfg.SOLVER.MAX_ITER)
        with _launched(trainer), patient(lambda: ranks == 1 and not trainer.validating):
            trainer.fit(module, batches, during, ckpt_path=saved, weights_only=True)
            if not finished:
                trainer.save_checkpoint(os.path.join(cfg.OUTPUT_DIR, FINAL), weights_only=False)
        return self._scores(trainer, module, tests)

    def score(self, student: nn.Module, tests: list[Any]) -> Scores:
        self.cfg.TEST.EVAL_PERIOD = 1
        trainer = build_trainer(self.cfg, self.args, self.callbacks)
        return self._scores(trainer, self.module(Distiller(student), [], {}), tests)

    def load_weights(self, student: nn.Module, path: str, key: str, partial: bool) -> Match:
        return load_state(student, self.read_weights(student, path, key), path, key, partial)

    def read_weights(self, model: nn.Module, path: str, key: str) -> dict[str, Tensor]:
        """The weights in a file under the names of ``model``."""
        return read_weights(path, key)

    def arrivals(self, train: list[Any]) -> tuple[torch.device, Iterator[Callable[[], Any]]]:
        device = torch.device("cuda" if uses_gpu(self.cfg) else "cpu")
        return device, (functools.partial(x.to, device) for x in self.dry_loader(train))

    def dry_loader(self, data: list[Any]) -> DataLoader:
        """``train_loader`` for a dry run, which wants a batch and leaves nothing on disk."""
        return self.train_loader(data, start=0, rank=0, ranks=1)

    def seen(self, mapper: Callable[[dict], Any], collate: Callable[[list], Any], record: dict) -> Any:
        """A batch of one record on the device."""
        return collate([mapped(mapper, record)]).to(torch.device("cuda" if uses_gpu(self.cfg) else "cpu"))

    def try_out(self, prepared: Prepared) -> list[str]:
        student = prepared.distiller.student.eval()
        build_trainer(self.cfg, self.args)
        module = self.module(prepared.distiller, prepared.train, prepared.classes)
        module.configure_optimizers()
        device, names = next(student.parameters()).device, []
        for test in prepared.tests:
            batch = next(iter(self.test_loader(test, rank=0, ranks=1))).to(device)
            names += module.try_out(test, batch)
        return names

    def source(self, node: str) -> TeacherSource:
        """The teacher that the config names under ``node``."""
        return next(source for source in self.teachers if source.node == node)

    def load_teacher(self, model: nn.Module, source: TeacherSource) -> float:
        """Fill a teacher; returns the matched part of its weights."""
        read = functools.partial(self.read_weights, model)
        return load_teacher(model, source, self.cfg.KD.TEACHER.ALLOW_PARTIAL, read)

    def built(
        self, module: nn.Module, probe: Probe, side: str, classes: dict[str, tuple[str, int]], **facts: Any
    ) -> BuiltModel:
        """A built model; ``side`` is as in ``kd2.config.taps_of``, ``facts`` its other fields."""
        taps, key = taps_of(self.cfg, side)
        return BuiltModel(module, probe, taps, key, classes, **facts)

    def _scores(self, trainer: lightning.Trainer, module: DistillModule, tests: list[Any]) -> Scores:
        results: Scores = {}
        trainer.limit_val_batches = 1.0
        for test in tests:
            module.test = test
            trainer.validate(module, self.test_loader(test, trainer.global_rank, trainer.world_size), verbose=False)
            results |= module.named_scores()
        return results


@contextlib.contextmanager
def _launched(trainer: lightning.Trainer) -> Iterator[None]:
    """The processes that a trainer starts get the signal that ends this one."""
    try:
        yield
    except Interrupted as end:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(end.signum)
        raise
