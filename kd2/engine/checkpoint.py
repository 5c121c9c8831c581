"""Checkpoints: one schema, read without running code, matched against a model, written all or nothing.

Intermediate and final files are alike, on every road::

    model      the student under its plain framework's key names (with a moving average: the average)
    adapters   what distillation trained beside it, by the name of the loss
    optimizer, scheduler, iteration     the last one that was done, from 0
    kd2        version, seed, rng, classes, teacher, config, shares; raw_model where ``model`` is an average
    trainer    whatever the framework's own resume needs, plain types and tensors only
"""

import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2 import __version__
from kd2.distill import ConfigError, nearest


def read_checkpoint(path: str, key: str, allow_pickle: bool = False) -> dict[str, Any]:
    """The content of a checkpoint file on the CPU. Only tensors and plain containers are unpickled.

    Args:
        path: a file of ``torch.save``, or a ``.pkl`` of Detectron2's zoo.
        key: the config key that named it, for errors.
        allow_pickle: the explicit opt-in that ``.pkl`` files need.

    Raises:
        ConfigError: a missing, truncated or foreign file, or one that needs the opt-in.
    """
    check_file(path, key)
    pickled = path.endswith(".pkl")
    if pickled and not allow_pickle:
        raise ConfigError(f"{key}: {path} is a pickle, which can run code when loaded; expected a file of torch.save")
    try:
        if pickled:
            with open(path, "rb") as file:
                content = pickle.load(file, encoding="latin1")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(f"{key}: {path} is no checkpoint of plain tensors ({_first(error)})") from None
    except (EOFError, RuntimeError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{key}: {path} is truncated or no checkpoint ({_first(error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{key}: {path} holds a {type(content).__name__}, expected a dict of weights")
    return content


def check_file(path: str, key: str) -> None:
    """Raises ConfigError naming the config key ``key`` and near file names when there is no file ``path``."""
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        near = nearest(os.path.basename(path), os.listdir(folder)) if os.path.isdir(folder) else f"no folder {folder}"
        raise ConfigError(f"{key}: no file {path}; {near}")


def weights_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The model's weights in a checkpoint: its ``model`` entry, or the whole file when it is a bare state dict."""
    return content["model"] if isinstance(content.get("model"), dict) else content


def run_entry(cfg: CfgNode, classes: dict[str, list[str]], rng: list[dict[str, Any]]) -> dict[str, Any]:
    """The ``kd2`` entry of a checkpoint: what a run is, apart from its weights.

    Args:
        classes: kind of class (``things``, ``stuff``, ``images``) -> names in the order of the model's outputs.
        rng: the random states of each process.
    """
    teacher = cfg.KD.TEACHER
    return {
        "version": __version__,
        "seed": cfg.SEED,
        "rng": rng,
        "classes": classes,
        "teacher": {"config_file": teacher.CONFIG_FILE, "weights": teacher.WEIGHTS},
        "config": cfg.dump(),
    }


def saved_seed(path: str) -> int:
    """The seed of the run that wrote a checkpoint.

    Raises:
        ConfigError: not a checkpoint of a run; see ``read_checkpoint``.
    """
    entry = read_checkpoint(path, "--resume").get("kd2")
    if not isinstance(entry, dict) or not isinstance(entry.get("seed"), int):
        raise ConfigError(f"--resume: {path} is not a checkpoint of a run of kd2")
    return entry["seed"]


def class_names(content: dict[str, Any], kind: str) -> list[str]:
    """The class names of one kind that a checkpoint knows; empty where it does not say."""
    entry = content.get("kd2")
    classes = entry.get("classes") if isinstance(entry, dict) else None
    return list(classes.get(kind, [])) if isinstance(classes, dict) else []


def _first(error: Exception) -> str:
    return str(error).split(". ")[0].strip()


def save_atomically(content: Any, path: str) -> None:
    """``torch.save`` to a temporary neighbor, then rename: the old file survives a crash or a full disk.

    Raises:
        OSError: the folder is not writable or the disk is full; the temporary file is removed.
    """
    _replace(path, lambda file: torch.save(content, file))


def write_atomically(text: str, path: str) -> None:
    """Write a text file all or nothing, as ``save_atomically`` does."""
    _replace(path, lambda file: file.write(text.encode()))


def _replace(path: str, write: Callable[[BinaryIO], Any]) -> None:
    temporary = f"{path}.partial"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, RuntimeError):  # what torch's writer makes of a full disk
            raise OSError(f"{path} could not be written ({_first(error)})") from error
        raise


def tag_last_checkpoint(path: str) -> None:
    """Make ``path`` the one from which its run is resumed."""
    folder, name = os.path.split(path)
    write_atomically(name, os.path.join(folder, "last_checkpoint"))


def last_checkpoint(folder: str) -> str | None:
    """The checkpoint that a run saved last, None before the first. Older runs in the same folder do not count."""
    tag = os.path.join(folder, "last_checkpoint")
    if not os.path.isfile(tag):
        return None
    with open(tag) as file:
        return os.path.join(folder, file.read().strip())


def check_writable(folder: str) -> None:
    """Create the output folder. Raises ConfigError naming OUTPUT_DIR when nothing can be written there."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a name of its own: other processes of the run do the same
            pass
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {folder!r} is not writable: {error.strerror}") from None


class Match:
    """How a checkpoint's tensors met a model's, by name and shape.

    Attributes:
        matched: part of the model's parameters and buffers, in elements, that the checkpoint fills; 0 to 1.
        missing, unexpected: names in the model, in the checkpoint, only.
        shapes: names whose shapes differ, with (in the checkpoint, in the model).
    """

    def __init__(self, model: nn.Module, state: dict[str, Tensor]):
        # A counter that only momentum-free batch norm reads; files of other tools leave it out.
        own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        self.shapes = {
            k: (tuple(state[k].shape), tuple(v.shape))
            for k, v in own.items()
            if k in state and state[k].shape != v.shape
        }
        self.missing = [k for k in own if k not in state]
        self.unexpected = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
        filled = sum(v.numel() for k, v in own.items() if k in state and k not in self.shapes)
        self.matched = filled / max(sum(v.numel() for v in own.values()), 1)

    def text(self) -> str:
        """One line: the matched part, and the first names that did not match."""
        notes = [f"{100 * self.matched:.1f} % of the weights matched"]
        for label, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("other shape", [f"{k} {a} instead of {b}" for k, (a, b) in self.shapes.items()]),
        ):
            if names:
                notes.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(notes)


def load_state(model: nn.Module, state: dict[str, Tensor], source: str, key: str, partial: bool) -> Match:
    """Load what fits by name and shape.

    Names that only the file has are a mismatch too: a ResNet-34's weights include all that a ResNet-18 asks for.

    Args:
        source: the file, for errors. key: the config key that named it.
        partial: whether anything less than an exact match is accepted.

    Raises:
        ConfigError: no exact match and ``partial`` is false, or nothing matched at all. The model is then unchanged.
    """
    match = Match(model, state)
    if match.matched == 0 or (not partial and (match.matched < 1 or match.unexpected)):
        raise ConfigError(f"{key}: {source} does not fit the model: {match.text()}")
    model.load_state_dict({k: v for k, v in state.items() if k not in match.shapes}, strict=False)
    return match
