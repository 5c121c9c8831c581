"""Runs on the roads that Lightning trains: from a config file to an experiment, a distiller, a trained student."""

import argparse
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kd2 import engine
from kd2.config import read
from kd2.distill import Distiller
from kd2.engine import flow
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.run import experiment_of

from .contents import different as different


def merged(base: dict, changes: dict) -> dict:
    """``base`` with the entries of ``changes``, group by group."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def present(tree: dict) -> dict:
    """A config without the entries that are None."""
    kept = {key: value for key, value in tree.items() if value is not None}
    return {key: present(value) if isinstance(value, dict) else value for key, value in kept.items()}


def arguments(**changes) -> argparse.Namespace:
    """What tools/train_net.py hands over without options."""
    return argparse.Namespace(**(vars(engine.ONE_PROCESS) | changes))


def experiment(config: str, *options: str, **changes) -> LightningExperiment:
    """The experiment of ``tools/train_net.py --config-file config *options``; ``changes`` of its arguments."""
    return experiment_of(read(config, list(options)), config, arguments(**changes))


def distiller(config: str, *options: str) -> Distiller:
    """The distiller from which the training of a config starts, in train mode."""
    return flow.prepare(experiment(config, *options)).distiller


def batches(config: str, *options: str, start: int = 0, rank: int = 0, ranks: int = 1) -> Iterator[Any]:
    """The training batches of a process from iteration ``start`` on, on the CPU; there is no end to them."""
    run = experiment(config, *options)
    for batch in run.train_loader(run.load_data("TRAIN"), start, rank, ranks):
        yield batch.to(torch.device("cpu"))


def first_batch(config: str, *options: str) -> Any:
    """The first of them."""
    return next(batches(config, *options))


def train(config: str, *options: str, callbacks: tuple = (), **changes) -> dict[str, float]:
    """``tools/train_net.py --config-file config *options`` in this process."""
    run = experiment(config, *options, **changes)
    run.callbacks = callbacks
    return flow.run(run)


def checkpoint(folder: Path, step: int | None = None) -> dict[str, Any]:
    """The content of a run's checkpoint after ``step`` steps, or of its last one."""
    name = "model_final.pth" if step is None else f"model_{step:07d}.pth"
    return torch.load(folder / name, weights_only=True)


def weights(folder: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """All tensors that a run trains, from its checkpoint: the student's and the adapters'."""
    content = checkpoint(folder, step)
    return content["model"] | {f"adapters.{k}": v for k, v in content["adapters"].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names that differ between two state dicts; empty when they are equal bit for bit."""
    return sorted(set(a) ^ set(b)) + [name for name in a if name in b and not torch.equal(a[name], b[name])]


def resumed(config: str, finished: Path, step: int, output: Path, *options: str) -> None:
    """Train from a copy of the checkpoint that a run in ``finished`` left after ``step`` steps, in ``output``."""
    output.mkdir()
    name = f"model_{step:07d}.pth"
    shutil.copy(finished / name, output)
    (output / "last_checkpoint").write_text(name)
    torch.manual_seed(12345)  # what a new process would draw is anybody's guess
    train(config, *options, "OUTPUT_DIR", str(output), resume=True)
