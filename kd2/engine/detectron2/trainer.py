"""Detectron2's DefaultTrainer around a distiller."""

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.solver import LRScheduler
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.utils.data import DataLoader

from kd2.config import merge
from kd2.distill import ConfigError, Distiller, average_of
from kd2.engine.detectron2 import compat
from kd2.engine.detectron2.config import add_d2_config
from kd2.engine.detectron2.data import eval_loader, train_loader
from kd2.engine.detectron2.evaluators import build_evaluator
from kd2.engine.detectron2.hooks import Averaging, KeepBest, ProcessStates, RunCheckpointer, StopAtSignal, saving_last
from kd2.engine.detectron2.solver import clipped_optimizer, learning_rate_schedule
from kd2.engine.detectron2.windows import windowed
from kd2.engine.experiment import Prepared
from kd2.engine.mixed_precision import forward_precision
from kd2.engine.weights.checkpoint import read_checkpoint, run_entry
from kd2.engine.weights.matching import load_state
from kd2.engine.weights.schema import check_run
from kd2.runs.best import Best
from kd2.runs.endings import patient
from kd2.runs.resume import apply_rates, rates_of


class Trainer(DefaultTrainer):
    """Trains the distiller of a prepared experiment.

    Resumed at a checkpoint it repeats what the uninterrupted run did: batches, augmentation, random draws, weights.

    Args:
        cfg: the run's config; its ``SEED`` is drawn (0 or more).
        prepared: the distiller becomes the model, on ``MODEL.DEVICE``.
        best: of the evaluations so far.
        begin: called when everything is built, before the first file is written.
    """

    def __init__(self, cfg: CfgNode, prepared: Prepared, best: Best, begin: Callable[[], None]):
        self.distiller, self.classes = prepared.distiller, prepared.classes
        self.run_cfg, self.best, self.begin, self._ends = cfg, best, begin, False
        with compat.trainable_on(cfg.MODEL.DEVICE):
            super().__init__(cfg)
        compat.set_mixed_precision(self)
        compat.name_losses(self)

    def restore(self, path: str) -> None:
        """Go on behind the iteration at which ``path`` was saved, with the rates of today's config.

        Raises:
            ConfigError: the file does not fit the student; it is of a run with other losses or another optimizer.
        """
        content = read_checkpoint(path, "--resume")
        check_run(content, f"--resume: {path}")
        raw = content["kd2"].get("raw_model", content["model"])
        load_state(self.distiller.student, raw, path, "--resume", partial=False)
        if self.average is not None:
            load_state(self.average.network, content["model"], path, "--resume", partial=False)
            self.average.resume(content["iteration"] + 1)
        self._check_groups(content["kd2"]["config"])
        rates = rates_of(self.optimizer)
        try:
            self.distiller.losses.load_state_dict(content["adapters"])
            self.distiller.shares.load_state_dict(content["kd2"]["shares"])
            self.load_state_dict(compat.joined_state(content))
            self.process_states.rng = content["kd2"]["rng"]
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise ConfigError(f"--resume: {path} is of a run with other losses or optimizer: {error}") from None
        apply_rates(self.optimizer, self.scheduler, rates)
        self.start_iter = self.distiller.iteration = self.iter + 1
        self.data_loader.batch_sampler.start = self.start_iter * self.cfg.SOLVER.ACCUMULATE
        compat.warm_up()
        if self._precise_bn_loader is not None and self.cfg.TEST.EVAL_PERIOD > 0:
            done = self.start_iter // self.cfg.TEST.EVAL_PERIOD
            self._precise_bn_loader.batch_sampler.start = done * self.cfg.TEST.PRECISE_BN.NUM_ITER

    def _check_groups(self, config: str) -> None:
        """Detectron2 groups parameters by their rates, and a saved optimizer knows them by their order alone."""
        saved = merge(add_d2_config(get_cfg()), yaml.safe_load(config))
        orders = [
            [id(p) for group in self.build_optimizer(cfg, self.distiller).param_groups for p in group["params"]]
            for cfg in (saved, self.run_cfg)
        ]
        if orders[0] != orders[1]:
            raise ConfigError(
                "--resume: the weight decays and SOLVER.BIAS_LR_FACTOR group the parameters otherwise than in the run; "
                "give the old values, or new ones that are equal and unequal where the old ones are"
            )

    def train(self) -> dict[str, Any]:
        """Run training; returns the nested results of the last evaluation (on the main process)."""
        if self.best.exhausted:
            self.max_iter = self.start_iter
        with patient(lambda: comm.get_world_size() == 1):
            try:
                super().train()
            except _Ended:  # Detectron2 has evaluated the student, and no more
                if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
                    verify_results(self.cfg, compat.last_results(self))
        return compat.last_results(self)

    def run_step(self) -> None:
        solver, device = self.cfg.SOLVER, torch.device(self.cfg.MODEL.DEVICE).type
        if solver.ACCUMULATE == 1 and not (solver.AMP.ENABLED and device == "cpu"):
            return super().run_step()
        self._trainer.iter = self.iter
        compat.accumulated_step(self._trainer, solver.ACCUMULATE, forward_precision(solver, device))

    def end_early(self) -> None:
        """End the training behind this step, which becomes the last one."""
        compat.end_behind_step(self)
        self._ends = True

    def after_step(self) -> None:
        super().after_step()
        if self._ends:
            self.iter += 1  # as behind the last step of the loop
            raise _Ended

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds beside the student, see ``kd2.engine.weights.checkpoint``."""
        run = run_entry(self.run_cfg, self.classes, self.process_states.rng, self.best)
        run["shares"] = self.distiller.shares.state_dict()
        found = {"adapters": self.distiller.losses.state_dict(), **compat.split_state(self.state_dict()), "kd2": run}
        if self.average is not None:
            run["raw_model"], found["model"] = self.distiller.student.state_dict(), self.average.network.state_dict()
        return found

    def _evaluated(self) -> nn.Module:
        return self.distiller.student if self.average is None else self.average.network

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks; checkpoints hold the student, precise BN runs the student alone."""
        cfg, student = self.cfg, self.distiller.student
        trainer = weakref.proxy(self)  # as in Detectron2: a trainer that is let go frees its memory at once
        self.checkpointer = RunCheckpointer(
            student, cfg.OUTPUT_DIR, lambda: trainer.content(), cfg.SOLVER.KEEP_CHECKPOINTS
        )
        self.process_states = ProcessStates(cfg, student)
        self.average = average_of(student, cfg.MODEL.EMA)
        self._precise_bn_loader = None
        found = [hook for hook in super().build_hooks() if not isinstance(hook, hooks.PreciseBN)]
        saving = next(i for i, h in enumerate(found) if isinstance(h, (hooks.PeriodicCheckpointer, hooks.EvalHook)))
        found.insert(saving, self.process_states)
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(student):
            found.insert(saving, self._precise_bn(student))
        if cfg.TEST.AUG.ENABLED:
            evaluation = next(i for i, hook in enumerate(found) if isinstance(hook, hooks.EvalHook))
            found.insert(evaluation + 1, hooks.EvalHook(0, self._augmented))
        if self.average is not None:
            found.insert(saving, Averaging(self.average))
        writing = next((i for i, h in enumerate(found) if isinstance(h, hooks.PeriodicCheckpointer)), saving)
        found.insert(writing + 1, StopAtSignal())
        evaluation = next(i for i, hook in enumerate(found) if isinstance(hook, hooks.EvalHook))
        if self.average is not None:
            found[evaluation] = hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._test_average)
        found.insert(evaluation + 1, KeepBest(cfg.TEST.EVAL_PERIOD))
        return saving_last(found) if self.best.metric else found

    def build_writers(self) -> list[EventWriter]:
        self.begin()
        return super().build_writers()

    def _test_average(self) -> OrderedDict:
        return compat.keep_results(self, self.test(self.cfg, self._evaluated()))

    def _augmented(self) -> OrderedDict:
        results = self.test_augmented(self.cfg, self._evaluated())
        compat.last_results(self).update(results)
        return results

    def _precise_bn(self, student: nn.Module) -> HookBase:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        self._precise_bn_loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, student, self._precise_bn_loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    def build_model(self, cfg: CfgNode) -> Distiller:
        """The distiller, which is there already: plain Detectron2 draws the model's weights here, first of all."""
        return self.distiller.to(cfg.MODEL.DEVICE)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: Distiller) -> torch.optim.Optimizer:
        return clipped_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return learning_rate_schedule(cfg, optimizer)

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
        with torch.random.fork_rng(devices=[]), patient(lambda: False):
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


class _Ended(BaseException):
    """Leaves Detectron2's loop, which logs every Exception as a failure."""
