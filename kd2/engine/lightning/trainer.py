"""Lightning's Trainer from a config: logs, checkpoints, resuming, precision, processes."""

import argparse
import logging
import os
import time
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from fvcore.common.config import CfgNode
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from kd2.distill import ConfigError
from kd2.engine.lightning.module import lightning_form, read_resumable
from kd2.engine.rendezvous import join, meeting_point, reach, started
from kd2.runs.endings import pending, raise_pending, take_signals
from kd2.runs.files import save_atomically
from kd2.runs.folder import BEST, keep, last_checkpoint

logger = logging.getLogger(__name__)

_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed"}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and are read without running code.

    Args:
        most: ``SOLVER.KEEP_CHECKPOINTS``.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        if os.path.basename(path) == BEST:
            save_atomically(checkpoint, str(path))
        else:
            keep(checkpoint, str(path), self.most)

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return lightning_form(read_resumable(str(path)))


class _Checkpoints(ModelCheckpoint):
    """Those on the way, the best one, and one at a signal, which ends the training; so does ``TEST.PATIENCE``.

    With ``TEST.BEST`` the checkpoint of a step is written behind its evaluation: a run that is stopped in between
    repeats the step and is evaluated as if it had not been stopped.
    """

    FILE_EXTENSION = ".pth"

    def state_dict(self) -> dict[str, Any]:
        """Nothing is remembered: the files say what is there, and the folder of a run may move."""
        return {}

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.should_stop = module.best.exhausted

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._step = trainer.global_step
        take_signals()  # Lightning's answer to SIGTERM is exit code 0

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *args: Any) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still collected
        self._step = trainer.global_step
        period = module.cfg.TEST.EVAL_PERIOD
        if not (module.best.metric and period and self._step % period == 0):
            self._save(trainer, module, *args)

    def _save(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if pending() and trainer.global_step < trainer.max_steps:
            path = os.path.join(str(self.dirpath), f"model_{trainer.global_step:07d}.pth")
            if path != last_checkpoint(str(self.dirpath)):
                trainer.save_checkpoint(path)
            raise_pending()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        scores = module.named_scores()
        module.best.check_names(scores)
        if module.best.beaten_by(scores):
            trainer.save_checkpoint(os.path.join(str(self.dirpath), BEST))
        if module.best.exhausted:
            logger.info("%s: the training ends after iteration %d", module.best.reason(), trainer.global_step - 1)
            trainer.should_stop = True
        if module.best.metric:
            self._save(trainer, module, None, None, 0)


class _StepTime(Callback):
    """Logs ``time``, as Detectron2 does: mean seconds of an optimizer step since the last line, evaluations aside."""

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._begin, self._spent, self._logged = time.perf_counter(), 0.0, trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        steps = trainer.global_step - self._logged  # 0 while the gradients of the first one are collected
        if steps and trainer.global_step % trainer.log_every_n_steps == 0:
            self._pause()
            module.log("time", self._spent / steps)
            self._spent, self._logged = 0.0, trainer.global_step

    def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._pause()

    def on_validation_end(self, *_: Any) -> None:
        self._begin = time.perf_counter()

    def _pause(self) -> None:
        now = time.perf_counter()
        self._spent, self._begin = self._spent + now - self._begin, now


class _Bar(TQDMProgressBar):
    def on_exception(self, *_: Any) -> None:
        print(flush=True)  # what follows begins a line of its own


def build_trainer(cfg: CfgNode, args: argparse.Namespace, callbacks: Iterable[Callback] = ()) -> lightning.Trainer:
    """A Trainer that stops after ``SOLVER.MAX_ITER`` optimizer steps.

    Args:
        args: num_gpus, num_machines, machine_rank, dist_url as in Detectron2's scripts; with eval_only nothing is
            written.
        callbacks: more Lightning callbacks; a progress bar among them takes the place of the usual one.

    Raises:
        ConfigError: more GPUs than there are, an address that is none, a precision that the device has not.
    """
    bar = [] if any(isinstance(c, ProgressBar) for c in callbacks) else [_Bar(refresh_rate=20)]
    writers = [] if args.eval_only else _writers(cfg)
    devices = _devices(cfg, args)
    return lightning.Trainer(
        **devices,
        logger=False if args.eval_only else _loggers(cfg),
        enable_checkpointing=not args.eval_only,
        callbacks=[*writers, *bar, *callbacks],
        precision=_precision(cfg, devices["accelerator"] == "gpu"),
        max_steps=cfg.SOLVER.MAX_ITER,
        accumulate_grad_batches=cfg.SOLVER.ACCUMULATE,
        val_check_interval=cfg.TEST.EVAL_PERIOD * cfg.SOLVER.ACCUMULATE or None,
        limit_val_batches=None if cfg.TEST.EVAL_PERIOD else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=20,
        default_root_dir=cfg.OUTPUT_DIR,
        enable_model_summary=False,
    )


def _writers(cfg: CfgNode) -> list[Callback]:
    checkpoints = _Checkpoints(
        cfg.OUTPUT_DIR,
        "model_{step:07d}",
        auto_insert_metric_name=False,
        save_top_k=-1,
        every_n_train_steps=cfg.SOLVER.CHECKPOINT_PERIOD,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    return [checkpoints, LearningRateMonitor(), _StepTime()]


def _loggers(cfg: CfgNode) -> list[Logger]:
    return [TensorBoardLogger(cfg.OUTPUT_DIR, name="", version=""), CSVLogger(cfg.OUTPUT_DIR, name="csv")]


def uses_gpu(cfg: CfgNode) -> bool:
    """Whether ``MODEL.DEVICE`` means a GPU here; raises ConfigError when it names none of this machine's devices."""
    name = cfg.MODEL.DEVICE
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("MODEL.DEVICE is 'cuda', but torch finds no GPU; auto takes what there is")
    return name != "cpu" and torch.cuda.is_available()


def _precision(cfg: CfgNode, gpu: bool) -> str:
    """Lightning's name of the precision; raises ConfigError for fp16 on the CPU, where it would take another."""
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.PRECISION == "fp16" and not gpu:
        raise ConfigError("SOLVER.AMP.PRECISION is 'fp16', which needs a CUDA device; bf16 trains on the CPU too")
    return _PRECISION[amp.PRECISION] if amp.ENABLED else "32-true"


def world_size(cfg: CfgNode, args: argparse.Namespace) -> int:
    """Processes of the run. Those that a launcher started meet here; Lightning starts the others itself.

    Raises:
        ConfigError: more GPUs than there are, see ``kd2.engine.rendezvous.started``.
    """
    gpu, place = uses_gpu(cfg), started(args)
    if place:
        join(place, gpu)
        return place.size
    wanted = args.num_gpus if gpu else 0
    if wanted > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus is {wanted}, this machine has {torch.cuda.device_count()}")
    return max(args.num_machines, 1) * (wanted or 1)


def _devices(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Devices and machines as Lightning wants them, and who knows the other processes."""
    size, place = world_size(cfg, args), started(args)
    machines = size // place.local_size if place else max(args.num_machines, 1)
    if not place:
        _meet(args, size)
    # Named, for Lightning would take the variables of a SLURM job for a launcher's.
    processes = TorchElasticEnvironment() if place else LightningEnvironment()
    return {
        "accelerator": "gpu" if uses_gpu(cfg) and args.num_gpus else "cpu",
        "devices": size // machines,
        "num_nodes": machines,
        "strategy": "ddp" if size > 1 else "auto",
        "plugins": [AtomicCheckpointIO(cfg.SOLVER.KEEP_CHECKPOINTS), processes],
    }


def _meet(args: argparse.Namespace, size: int) -> None:
    """Tell Lightning where the processes that it starts meet; raises ConfigError when that cannot be."""
    point = meeting_point(args)
    if size == 1:
        return
    if point:
        os.environ.setdefault("MASTER_ADDR", point[0])
        os.environ.setdefault("MASTER_PORT", str(point[1]))
        if "LOCAL_RANK" not in os.environ:  # in those that Lightning starts the port may be in use already
            reach(point, args.machine_rank)
    os.environ.setdefault("NODE_RANK", str(args.machine_rank))
