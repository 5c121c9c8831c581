"""Checkpoints: one schema, read without running code, matched against a model. ``kd2.runs`` writes them.

Intermediate and final files are alike, on every road::

    model      the student under its plain framework's key names (with a moving average: the average)
    adapters   what distillation trained beside it, by the name of the loss
    optimizer, scheduler, iteration     the last one that was done, from 0
    kd2        version, seed, rng, classes, teacher, config, best; raw_model where ``model`` is an average
    trainer    whatever the framework's own resume needs, plain types and tensors only
"""

import os
import pickle
import zipfile
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2 import __version__
from kd2.distill import ConfigError, nearest
from kd2.runs.best import Best
from kd2.runs.files import save_atomically
from kd2.runs.folder import BEST, FINAL


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


def run_entry(cfg: CfgNode, classes: dict[str, list[str]], rng: list[dict[str, Any]], best: Best) -> dict[str, Any]:
    """The ``kd2`` entry of a checkpoint: what a run is, apart from its weights.

    Args:
        classes: kind of class (``things``, ``stuff``, ``images``) -> names in the order of the model's outputs.
        rng: the random states of each process.
        best: of the evaluations so far.
    """
    teacher = cfg.KD.TEACHER
    return {
        "version": __version__,
        "seed": cfg.SEED,
        "rng": rng,
        "classes": classes,
        "teacher": {"config_file": teacher.CONFIG_FILE, "weights": teacher.WEIGHTS},
        "config": cfg.dump(),
        **({"best": best.entry()} if best.metric else {}),
    }


def best_of(cfg: CfgNode, resuming: bool) -> Best:
    """The best student so far of a run that begins, or of one that goes on beside its model_best.pth."""
    path = os.path.join(cfg.OUTPUT_DIR, BEST)
    found = resuming and cfg.TEST.BEST and os.path.isfile(path)
    return Best(cfg.TEST.BEST, saved_run(path)[0].get("best") if found else None)


def keep_final_as_best(folder: str, best: Best) -> None:
    """The last evaluation was the best one: make a copy of the final checkpoint model_best.pth."""
    content = read_checkpoint(os.path.join(folder, FINAL), "OUTPUT_DIR")
    content["kd2"]["best"] = best.entry()
    save_atomically(content, os.path.join(folder, BEST))


def saved_run(path: str) -> tuple[dict[str, Any], int]:
    """The ``kd2`` entry of the run that wrote a checkpoint, and the last iteration that was done.

    Raises:
        ConfigError: not a checkpoint of a run; see ``read_checkpoint``.
    """
    content = read_checkpoint(path, "--resume")
    entry, iteration = content.get("kd2"), content.get("iteration")
    kinds = {"seed": int, "config": str, "classes": dict, "rng": list}
    known = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
    if not (known and isinstance(iteration, int)):
        raise ConfigError(f"--resume: {path} is not a checkpoint of a run of kd2")
    return entry, iteration


def class_names(content: dict[str, Any], kind: str) -> list[str]:
    """The class names of one kind that a checkpoint knows; empty where it does not say."""
    entry = content.get("kd2")
    classes = entry.get("classes") if isinstance(entry, dict) else None
    return list(classes.get(kind, [])) if isinstance(classes, dict) else []


def _first(error: Exception) -> str:
    return str(error).split(". ")[0].strip()


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
