"""Detectron2's DefaultTrainer for a Distiller."""

import os
import weakref
from collections import OrderedDict
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.solver import LRScheduler
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from kd2.engine.detectron2.augmented import check_augmentation
from kd2.engine.detectron2.checkpoint import StudentCheckpointer
from kd2.engine.detectron2.data import eval_loader, register, train_loader
from kd2.engine.detectron2.distiller import Distiller
from kd2.engine.detectron2.evaluators import build_evaluator, check_evaluators
from kd2.engine.detectron2.loop import WatchedAMPTrainer, WatchedTrainer
from kd2.engine.detectron2.models import BODY, check_data_classes
from kd2.engine.detectron2.resume import RankStates, warm_up
from kd2.engine.detectron2.solver import build_optimizer
from kd2.engine.detectron2.windows import check_windows, windowed
from kd2.engine.init_student import initialize


class Trainer(DefaultTrainer):
    """Trains the student and the losses of a config whose ``MODEL.META_ARCHITECTURE`` is ``Distiller``.

    Resumed at a checkpoint it repeats what the uninterrupted run did: batches, augmentation, random draws, weights.

    Args:
        cfg: with a drawn ``SEED`` (0 or more), as ``kd2.engine.detectron2.run.setup`` makes it.
    """

    def __init__(self, cfg: CfgNode):
        register(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        check_evaluators(cfg.DATASETS.TEST)
        super().__init__(cfg)
        kind = WatchedAMPTrainer if cfg.SOLVER.AMP.ENABLED else WatchedTrainer
        self._trainer = kind(self.model, self.data_loader, self.optimizer)

    @property
    def distiller(self) -> Distiller:
        """The model without its parallel wrapper."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of ``OUTPUT_DIR``, or initialize the student: ``MODEL.WEIGHTS``, ``KD.INIT_FROM_TEACHER``."""
        super().resume_or_load(resume)
        self.data_loader.batch_sampler.start = self.start_iter
        if self.start_iter > 0:
            warm_up()
        else:
            initialize(self.distiller, self.cfg, BODY)
        period = self.cfg.TEST.EVAL_PERIOD
        if self._precise_bn_loader is not None and period > 0:
            done = self.start_iter // period
            self._precise_bn_loader.batch_sampler.start = done * self.cfg.TEST.PRECISE_BN.NUM_ITER

    def train(self) -> dict[str, Any]:
        """Run training; returns the results of the last evaluation (on the main process)."""
        super().train()
        return getattr(self, "_last_eval_results", None) or {}

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks; checkpoints hold the student, precise BN runs the student alone."""
        student = self.distiller.student
        self.checkpointer = StudentCheckpointer(
            student,
            self.distiller.losses,
            self.cfg.OUTPUT_DIR,
            self.cfg.KD.ALLOW_PICKLE,
            trainer=weakref.proxy(self),
        )
        self._precise_bn_loader = None
        found = [hook for hook in super().build_hooks() if not isinstance(hook, hooks.PreciseBN)]
        saving = next(i for i, h in enumerate(found) if isinstance(h, (hooks.PeriodicCheckpointer, hooks.EvalHook)))
        found.insert(saving, RankStates(self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.SEED, student))
        if self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(student):
            found.insert(saving, self._precise_bn(student))
        if self.cfg.TEST.AUG.ENABLED:
            evaluation = next(i for i, hook in enumerate(found) if isinstance(hook, hooks.EvalHook))
            found.insert(evaluation + 1, hooks.EvalHook(0, self._augmented))
        return found

    def _augmented(self) -> OrderedDict:
        results = self.test_augmented(self.cfg, self.distiller.student)
        self._last_eval_results.update(results)
        return results

    def _precise_bn(self, student: nn.Module) -> HookBase:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        self._precise_bn_loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, student, self._precise_bn_loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Distiller:
        model = super().build_model(cfg)
        check_data_classes(model.student, cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        check_windows(cfg, model.student)
        check_augmentation(cfg, model.student)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: Distiller) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model.student, model.losses)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return build_lr_scheduler(cfg, optimizer)  # Detectron2's own and WarmupPolyLR

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        return train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return eval_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> OrderedDict:
        """Detectron2's evaluation of every ``DATASETS.TEST``; training afterwards draws the same random numbers."""
        with torch.random.fork_rng(devices=[]):
            return super().test(cfg, windowed(cfg, model), evaluators)

    @classmethod
    def test_augmented(cls, cfg: CfgNode, student: GeneralizedRCNN) -> OrderedDict:
        """``test`` over the sizes and mirror images of ``TEST.AUG``; the files go to ``inference_TTA``.

        Returns:
            Results under the names of Detectron2's script: ``bbox_TTA``, ``segm_TTA``.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, student), evaluators)
        return OrderedDict((f"{task}_TTA", scores) for task, scores in results.items())
