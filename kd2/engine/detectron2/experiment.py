"""Training, evaluation and dry run of Detectron2's models."""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

from kd2.config import taps_of
from kd2.distill import Distiller
from kd2.engine import ONE_PROCESS
from kd2.engine.build import BuiltModel, Step, check_pair
from kd2.engine.checkpoint import Match, write_atomically
from kd2.engine.detectron2 import zoo
from kd2.engine.detectron2.compat import CheckedCheckpointer
from kd2.engine.detectron2.config import plain_cfg, student_cfg, teacher_config
from kd2.engine.detectron2.data import check_readable, register, train_loader
from kd2.engine.detectron2.evaluators import check_augmentation, check_evaluators
from kd2.engine.detectron2.models import METADATA, blank_probe, build_plain, check_data_classes, class_keys, probe_size
from kd2.engine.detectron2.step import step_of
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.detectron2.windows import check_windows, windowed
from kd2.engine.experiment import Experiment, Prepared, Scores, build_distiller, write_config


class Detectron2Experiment(Experiment):
    """Any model of Detectron2; a data set is its name in Detectron2's catalogs.

    The student's weights are drawn from the global generator, as plain Detectron2 draws them: it is seeded before.
    """

    backbone = "backbone.bottom_up."

    def __init__(self, cfg: CfgNode, args: Any):
        super().__init__(cfg, args)
        self._names: list[str] = []
        self._student: BuiltModel | None = None

    def load_data(self, split: str) -> list[str]:
        names = list(self.cfg.DATASETS[split])
        register(self.cfg, names)
        return names

    def check(self, train: list[str], tests: list[str]) -> None:
        """Whether the data sets can be evaluated; what needs the student is checked when that is built."""
        check_evaluators(tests)
        check_readable(tests)
        self._names = [*train, *tests]

    def build_student(self) -> BuiltModel:
        cfg, model = self.cfg, build_plain(self.cfg, "MODEL.META_ARCHITECTURE")
        check_data_classes(model, cfg, self._names)
        check_windows(cfg, model)
        check_augmentation(cfg, model)
        self._student = self._built(model, cfg, "STUDENT")
        return self._student

    def build_teacher(self) -> BuiltModel:
        own, block = teacher_config(self.cfg), self.cfg.KD.TEACHER
        model = build_plain(own, f"KD.TEACHER.CONFIG_FILE {block.CONFIG_FILE}: MODEL.META_ARCHITECTURE")
        teacher = self._built(model, own, "TEACHER")
        check_pair(self._student, teacher)  # before the weights, whose error would speak of shapes
        key = "KD.TEACHER.WEIGHTS"
        match = self.load_weights(model, zoo.weights_file(block.WEIGHTS, key), key, block.ALLOW_PARTIAL)
        return replace(teacher, matched=match.matched)

    def step(self, student: nn.Module, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        return step_of(student, reverse_colors)

    def load_weights(self, student: nn.Module, path: str, key: str, partial: bool) -> Match:
        checkpointer = CheckedCheckpointer(student, key, self.cfg.KD.ALLOW_PICKLE, partial)
        checkpointer.load(path)
        return checkpointer.match

    def class_names(self, data: list[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in data:
            for kind, entry in METADATA.items():
                classes = MetadataCatalog.get(name).get(entry)
                if classes and kind not in found:
                    found[kind] = list(classes)
        return found

    def arrivals(self, train: list[str]) -> tuple[torch.device, Iterator[Callable[[], Any]]]:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        # Detectron2's models bring a batch to their device.
        return torch.device(cfg.MODEL.DEVICE), (lambda batch=batch: batch for batch in train_loader(cfg))

    def try_out(self, prepared: Prepared) -> None:
        cfg, student = self.cfg, prepared.distiller.student.eval()
        Trainer.build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, prepared.distiller))
        models = [windowed(cfg, student)] + ([GeneralizedRCNNWithTTA(cfg, student)] if cfg.TEST.AUG.ENABLED else [])
        for name in prepared.tests:
            for model in models:
                with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                    evaluator = Trainer.build_evaluator(cfg, name, folder)
                    evaluator.reset()
                    batch = next(iter(Trainer.build_test_loader(cfg, name)))
                    evaluator.process(batch, model(batch))

    def fit(self, prepared: Prepared, saved: str | None) -> Scores:
        cfg, trainer = self.cfg, Trainer(self.cfg, prepared)
        if saved:
            trainer.restore(saved)
        if comm.is_main_process():
            write_config(cfg)
        results = trainer.train()
        if comm.is_main_process():
            folder = os.path.abspath(cfg.OUTPUT_DIR)
            own = student_cfg(cfg, os.path.join(folder, "model_final.pth"))
            write_atomically(own.dump(), os.path.join(folder, "student.yaml"))
        return flatten_results_dict(results)

    def score(self, student: nn.Module, tests: list[str]) -> Scores:
        cfg = self.cfg
        results = Trainer.test(cfg, student)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_augmented(cfg, student))
        if comm.is_main_process():
            verify_results(cfg, results)
        return flatten_results_dict(results)

    def _built(self, model: nn.Module, cfg: CfgNode, side: str) -> BuiltModel:
        taps, key = taps_of(self.cfg, side)
        probe = blank_probe(model, len(cfg.MODEL.PIXEL_MEAN), probe_size(self.cfg))
        return BuiltModel(model, probe, taps, key, class_keys(model, cfg), cfg.INPUT.FORMAT)


def build_distilled(cfg: CfgNode) -> Distiller:
    """The meta-architecture ``Distiller`` of a config from ``distill_cfg``, for scripts of one's own.

    ``build_model`` calls it. The teacher has its weights; ``MODEL.WEIGHTS`` is left to the script's checkpointer, whose
    model is ``.student``. In a trainer of Detectron2's the iteration is the trainer's.
    """
    distiller, _ = build_distiller(Detectron2Experiment(plain_cfg(cfg), ONE_PROCESS), with_weights=False)
    distiller.register_forward_pre_hook(_follow_trainer)
    return distiller


def _follow_trainer(distiller: Distiller, _inputs: Any) -> None:
    if has_event_storage():
        distiller.iteration = get_event_storage().iter


build_distilled.__name__ = "Distiller"
META_ARCH_REGISTRY.register(build_distilled)
