"""Every private or version-dependent corner of Detectron2; of the packages that it needs, see packages and projects."""

import contextlib
import functools
import importlib
import logging
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, SimpleTrainer, defaults, hooks
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss_jit
from torch import Tensor, nn
from torch.utils.data import Sampler

from kd2.distill import NaNMonitor, NonFiniteLoss
from kd2.engine.mixed_precision import DTYPES
from kd2.losses import active_losses

logger = logging.getLogger(__name__)


def announce_plain_builds() -> None:
    """Make Detectron2's ``build_model`` say so where a config has losses and names a plain student: nothing distills.

    What it builds stays the same. It looks the registry up when it is called, so scripts that imported it before are
    told too. The engine itself asks ``META_ARCH_REGISTRY``.
    """
    importlib.import_module("detectron2.modeling.meta_arch.build").META_ARCH_REGISTRY = types.SimpleNamespace(
        get=lambda name: functools.partial(_announced, name)
    )


def _announced(name: str, cfg: CfgNode) -> nn.Module:
    if name != "Distiller" and active_losses(cfg.get("KD", {}).get("LOSSES", {})):
        logger.warning(
            "KD.LOSSES: build_model makes the plain student %s, nothing distills; to train by these losses give it the "
            "config kd2.engine.detectron2.distill_cfg(cfg)",
            name,
        )
    return META_ARCH_REGISTRY.get(name)(cfg)


class RunningNumbers:
    """Plain numbers outside the state dict that a model changes in training: RetinaNet's running loss normalizer."""

    def __init__(self, model: nn.Module):
        self._modules = dict(model.named_modules())
        self._before = {path: _numbers(module) for path, module in self._modules.items()}

    def changed(self) -> dict[str, dict[str, float]]:
        """``{module path: {attribute: number}}`` of those that changed since this object was made."""
        found = {
            path: {k: v for k, v in _numbers(module).items() if self._before[path].get(k) != v}
            for path, module in self._modules.items()
        }
        return {path: numbers for path, numbers in found.items() if numbers}

    def restore(self, changed: dict[str, dict[str, float]]) -> None:
        """Set what ``changed`` gave."""
        for path, numbers in changed.items():
            vars(self._modules[path]).update(numbers)


def _numbers(module: nn.Module) -> dict[str, float]:
    return {name: value for name, value in vars(module).items() if type(value) in (int, float)}


def warm_up() -> None:
    """Run Detectron2's compiled focal loss past its first call, whose gradients differ from later ones in the last bit.

    A run that is resumed has that call behind it.
    """
    for _ in range(2):
        x = torch.zeros(1, 1, requires_grad=True)
        sigmoid_focal_loss_jit(x, torch.zeros(1, 1), alpha=0.25, gamma=2.0, reduction="sum").backward()


def set_precision(cfg: CfgNode) -> None:
    """Follow ``FLOAT32_PRECISION`` in versions of Detectron2 that have the key."""
    if cfg.get("FLOAT32_PRECISION"):
        defaults._set_float32_precision(cfg.FLOAT32_PRECISION)


@contextlib.contextmanager
def trainable_on(device: str) -> Iterator[None]:
    """Let a DefaultTrainer that is made inside the block train on the CPU: it names a GPU where it shares a model, and
    makes a scaler that warns of being of no use, see ``set_mixed_precision``."""
    plain = defaults.create_ddp_model
    with warnings.catch_warnings():
        if not device.startswith("cuda"):
            defaults.create_ddp_model = functools.partial(plain, device_ids=None)
            warnings.filterwarnings("ignore", "torch.cuda.amp.GradScaler is enabled")
        try:
            yield
        finally:
            defaults.create_ddp_model = plain


def parameter_groups(cfg: CfgNode, model: nn.Module, **more: Any) -> list[dict[str, Any]]:
    """The groups of ``model`` by the keys of ``SOLVER``, as Detectron2's own ``build_optimizer`` makes them.

    Args:
        more: further arguments of Detectron2's ``get_default_optimizer_params``.
    """
    return get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        **more,
    )


@contextlib.contextmanager
def preprocessed(model: nn.Module, images: ImageList) -> Iterator[None]:
    """Let a model take ``images`` inside the block, in place of what it makes of the batch that it is called with."""
    model.preprocess_image = lambda _batch: images
    try:
        yield
    finally:
        del model.preprocess_image  # that of its class is there again


def set_mixed_precision(trainer: DefaultTrainer) -> None:
    """Let a trainer whose ``SOLVER.AMP.PRECISION`` is bf16 compute in it; its range needs no scaled losses.

    Detectron2's own step of mixed precision runs on GPUs alone; ``accumulated_step`` is for CPUs too.
    """
    amp = trainer.cfg.SOLVER.AMP
    if amp.ENABLED and amp.PRECISION == "bf16":
        loop = trainer._trainer
        loop.precision, loop.grad_scaler = DTYPES[amp.PRECISION], torch.amp.GradScaler("cuda", enabled=False)


def endless_order(sampler: Sampler) -> Callable[[], Iterator[int]]:
    """The indices of a sampler of Detectron2 before it deals them out to the processes."""
    return sampler._infinite_indices


def name_losses(trainer: DefaultTrainer) -> None:
    """Let a trainer stop with NonFiniteLoss at a loss that is not finite, before the step changes any weight.

    The distiller's stats are logged with its losses.
    """
    loop, write = trainer._trainer, trainer._trainer._write_metrics

    def write_named(losses: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        monitor = NaNMonitor()
        monitor.see(losses, loop.iter)
        try:
            write(losses, *args, **kwargs)
        except FloatingPointError:
            monitor.check()
            raise NonFiniteLoss(
                f"a loss of another process became NaN or infinite at iteration {loop.iter}; "
                "the last checkpoint is kept"
            ) from None
        get_event_storage().put_scalars(cur_iter=loop.iter, **getattr(loop.model, "module", loop.model).stats)

    loop._write_metrics = write_named


def accumulated_step(loop: SimpleTrainer, batches: int, precision: AbstractContextManager[Any]) -> None:
    """One step of the optimizer over the mean gradient of several batches, in place of ``loop.run_step()``.

    The log has the means of the losses over the batches.

    Args:
        precision: what the forward passes run in.
    """
    scaler, distiller = getattr(loop, "grad_scaler", None), getattr(loop.model, "module", loop.model)
    means: dict[str, Tensor] = {}
    waited = 0.0
    loop.optimizer.zero_grad()
    for number in range(batches):
        start = time.perf_counter()
        batch = next(loop._data_loader_iter)
        waited += time.perf_counter() - start
        distiller.iteration, distiller.batch = loop.iter, number
        last = number == batches - 1 or distiller is loop.model
        with contextlib.nullcontext() if last else loop.model.no_sync():  # processes meet at the last batch
            with precision:
                losses = {name: loss / batches for name, loss in loop.model(batch).items()}
                total = sum(losses.values())
            (scaler.scale(total) if scaler else total).backward()
        means = {name: means.get(name, 0.0) + loss.detach() for name, loss in losses.items()}
    loop.after_backward()
    loop._write_metrics(means, waited)
    if scaler:
        scaler.step(loop.optimizer), scaler.update()
    else:
        loop.optimizer.step()


def end_behind_step(trainer: DefaultTrainer) -> None:
    """Make the step of the hooks that run the last one of the training, for those that come behind too."""
    trainer.max_iter = trainer.iter + 1
    for hook in trainer._hooks:
        if isinstance(hook, hooks.PeriodicCheckpointer):
            hook.max_iter = trainer.max_iter


def split_state(state: dict[str, Any]) -> dict[str, Any]:
    """A DefaultTrainer's state as the entries optimizer, scheduler, iteration and trainer of a checkpoint."""
    optimizer = state["_trainer"].pop("optimizer")
    return {
        "optimizer": optimizer,
        "scheduler": state["hooks"].pop("LRScheduler"),
        "iteration": state["iteration"],
        "trainer": state,
    }


def joined_state(content: dict[str, Any]) -> dict[str, Any]:
    """Undo ``split_state``; raises KeyError for a checkpoint without these entries."""
    state = content["trainer"]
    state["_trainer"]["optimizer"] = content["optimizer"]
    progress = ("last_epoch", "_step_count")  # some schedulers save what the config says too
    state["hooks"]["LRScheduler"] = {k: v for k, v in content["scheduler"].items() if k in progress}
    return state


def last_results(trainer: DefaultTrainer) -> dict[str, Any]:
    """The nested results of a trainer's last evaluation; empty before the first and on other processes."""
    return getattr(trainer, "_last_eval_results", None) or {}


def keep_results(trainer: DefaultTrainer, results: dict[str, Any]) -> dict[str, Any]:
    """Make these the nested results of a trainer's last evaluation; returns them."""
    trainer._last_eval_results = results
    return results
