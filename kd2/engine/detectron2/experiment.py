"""Training, evaluation and dry run of Detectron2's models."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import nn

from kd2.config import taps_of, teacher_blocks
from kd2.data.detection.records import check_numbers
from kd2.data.stream import mapped
from kd2.distill import ConfigError, Distiller
from kd2.engine import ONE_PROCESS
from kd2.engine.build import BuiltModel, Step, check_pair
from kd2.engine.detectron2 import logs
from kd2.engine.detectron2.checkpointer import CheckedCheckpointer
from kd2.engine.detectron2.config import plain_cfg, teacher_config, write_student
from kd2.engine.detectron2.data import align, align_semantic, check_readable, custom_records, register, train_loader
from kd2.engine.detectron2.data.built_in import read_built_in
from kd2.engine.detectron2.data.catalog import put_pictures, read_custom
from kd2.engine.detectron2.data.loaders import train_mapper, training_records
from kd2.engine.detectron2.evaluators import check_augmentation, check_evaluators, check_keypoints
from kd2.engine.detectron2.lazy_keys import without_decided
from kd2.engine.detectron2.models import (
    METADATA,
    blank_probe,
    build_plain,
    check_data_classes,
    check_square,
    class_keys,
    probe_size,
)
from kd2.engine.detectron2.records_evaluator import RecordsEvaluator, detections_of
from kd2.engine.detectron2.step import step_of
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.detectron2.windows import check_windows, windowed
from kd2.engine.experiment import DataSet, Experiment, Prepared, Scores
from kd2.engine.flow import begin
from kd2.engine.pair import build_distiller, several_teachers
from kd2.engine.proposals import check_stages
from kd2.engine.weights.checkpoint import teacher_classes
from kd2.engine.weights.matching import Match
from kd2.losses import active_losses
from kd2.runs.best import Best

logger = logging.getLogger(__name__)


class Detectron2Experiment(Experiment):
    """Any model of Detectron2; a data set is its name in Detectron2's catalogs.

    The student's weights are drawn from the global generator, as plain Detectron2 draws them: it is seeded before.
    """

    backbone = "backbone.bottom_up."

    def __init__(self, cfg: CfgNode, args: Any):
        super().__init__(cfg, args)
        self._names: list[str] = []
        self._student: BuiltModel | None = None

    def config_text(self) -> str:
        return str(without_decided(self.cfg).dump())

    def load_data(self, split: str) -> list[str]:
        names = list(self.cfg.DATASETS[split])
        register(self.cfg, names)
        if split == "TEST":
            check_readable(names)
        things = align(names, self.classes.get("things", ()))
        stuff = align_semantic(names, self.classes.get("stuff", ()))
        self.classes |= {kind: found for kind, found in (("things", things), ("stuff", stuff)) if found}
        return names

    def load_one(self, name: str, key: str) -> DataSet:
        if name in self.cfg.DATASETS.CUSTOM:
            return read_custom(self.cfg, name)
        register(self.cfg, [name])
        return read_built_in(name)

    def check(self, train: list[str], tests: list[str]) -> None:
        """Whether the data sets can be evaluated; what needs the student is checked when that is built."""
        check_numbers(custom_records([*train, *tests]))
        check_evaluators(tests)
        check_keypoints(self.cfg)
        self._names = [*train, *tests]

    def new_student(self) -> BuiltModel:
        cfg, model = self.cfg, build_plain(self.cfg, "MODEL.META_ARCHITECTURE")
        check_data_classes(model, cfg, self._names)
        check_windows(cfg, model)
        check_augmentation(cfg, model)
        check_square(cfg, model)
        self._student = self._built(model, cfg, "STUDENT", names=self.classes)
        return self._student

    def build_teacher(self, node: str = "KD.TEACHER") -> BuiltModel:
        own, block = teacher_config(self.cfg, node), teacher_blocks(self.cfg)[node]
        model = build_plain(own, f"{node}.CONFIG_FILE {block['CONFIG_FILE']}: MODEL.META_ARCHITECTURE")
        key, weights = f"{node}.WEIGHTS", block["WEIGHTS"]
        if not weights:
            raise ConfigError(f"{key} is empty, expected a checkpoint file, a run folder, or a published name")
        kinds = class_keys(model, own)
        names, names_key = teacher_classes(self.cfg, "things" if "things" in kinds else "stuff", weights, node)
        teacher = self._built(model, own, node.removeprefix("KD."), names=names, names_key=names_key)
        check_square(self.cfg, model, self._student.module, node)
        if node == "KD.TEACHER":  # before the weights, whose error would speak of shapes
            blocks, copied = active_losses(self.cfg.KD.LOSSES), self.cfg.KD.INIT_FROM_TEACHER
            check_pair(self._student, teacher, blocks, copied, several_teachers(self.cfg))
        match = self.load_weights(model, weights, key, self.cfg.KD.TEACHER.ALLOW_PARTIAL)
        return replace(teacher, matched=match.matched)

    def step(self, student: nn.Module, teacher: BuiltModel | None, reverse_colors: bool) -> Step:
        for side in ("STUDENT", "TEACHER"):
            check_stages(*taps_of(self.cfg, side))
        return step_of(student, reverse_colors, self.cfg.KD.UNLABELED, teacher)

    def load_weights(self, student: nn.Module, path: str, key: str, partial: bool) -> Match:
        checkpointer = CheckedCheckpointer(student, key, partial)
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

    def view(self, data: str) -> tuple[list[dict], Callable[[dict], list[dict]]]:
        records = training_records(self.cfg, data, list(self.cfg.DATASETS.TRAIN).index(data))
        mapper = train_mapper(self.cfg, records)
        return records, lambda record: [mapped(mapper, record)]

    def predict(self, model: nn.Module, batch: list[dict]) -> list[dict]:
        return windowed(self.cfg, model)(batch)

    def try_out(self, prepared: Prepared) -> list[str]:
        cfg, student = self.cfg, prepared.distiller.student.eval()
        Trainer.build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, prepared.distiller))
        models = {"": windowed(cfg, student)}
        if cfg.TEST.AUG.ENABLED:
            models["_TTA"] = GeneralizedRCNNWithTTA(cfg, student)
        known: list[list[str]] = []
        for name in prepared.tests:
            for mark, model in models.items():
                with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                    evaluator = Trainer.build_evaluator(cfg, name, folder)
                    evaluator.reset()
                    batch = next(iter(Trainer.build_test_loader(cfg, name)))
                    evaluator.process(batch, model(batch))
                    known.append(_score_names(evaluator, mark, name if len(prepared.tests) > 1 else ""))
        return [name for names in known for name in names] if all(known) else []

    @property
    def first(self) -> bool:
        return comm.is_main_process()

    def fit(self, prepared: Prepared, saved: str | None, best: Best) -> Scores:
        cfg, trainer = self.cfg, Trainer(self.cfg, prepared, best, lambda: begin(self, saved, best))
        logs.log_into(cfg.OUTPUT_DIR)
        logger.info("%s\n%s\n%s", self.args, collect_env_info(), cfg.dump())
        if saved:
            trainer.restore(saved)
        results = trainer.train()
        if self.first:
            write_student(cfg, os.path.abspath(cfg.OUTPUT_DIR))
        return flatten_results_dict(results)

    def score(self, student: nn.Module, tests: list[str]) -> Scores:
        cfg = self.cfg
        results = Trainer.test(cfg, student)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_augmented(cfg, student))
        if comm.is_main_process():
            verify_results(cfg, results)
        return flatten_results_dict(results)

    @torch.no_grad()
    def find(self, student: nn.Module, data: DataSet) -> list[dict[str, Any]]:
        put_pictures(data)
        found: list[dict[str, Any]] = []
        for batch in Trainer.build_test_loader(self.cfg, data.name):
            for given, output in zip(batch, student(batch), strict=True):
                found += detections_of(output["instances"], given["image_id"], self.cfg.MODEL.MASK_ON)
        return found

    def _built(self, model: nn.Module, cfg: CfgNode, side: str, **names: Any) -> BuiltModel:
        taps, key = taps_of(self.cfg, side)
        probe = blank_probe(model, probe_size(self.cfg))
        return BuiltModel(model, probe, taps, key, class_keys(model, cfg), cfg.INPUT.FORMAT, **names)


def _score_names(evaluator: DatasetEvaluator, mark: str, data: str) -> list[str]:
    """The names of the scores as results have them; none of Detectron2's own evaluators, which do not tell.

    Args:
        mark: behind what is evaluated with augmentation.
        data: the data set, where there are several.
    """
    if not isinstance(evaluator, RecordsEvaluator):
        return []
    start = f"{data}{mark}/" if data else ""
    return [
        f"{start}{kind}{'' if data else mark}/{name}" for kind, names in evaluator.names().items() for name in names
    ]


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
