"""Checkpoints: one schema, read without running code, matched against a model. ``kd2.runs`` writes them.

Intermediate and final files are alike, on every road::

    model      the student under its plain framework's key names (with a moving average: the average)
    adapters   what distillation trained beside it, by the name of the loss
    optimizer, scheduler, iteration     the last one that was done, from 0
    kd2        version, seed, rng, classes, teacher, config, shares, best; raw_model where ``model`` is an average
    trainer    whatever the framework's own resume needs, plain types and tensors only
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from kd2 import __version__
from kd2.config import teacher_blocks
from kd2.distill import ConfigError
from kd2.engine.fetch import local_file
from kd2.engine.names import zoo_classes
from kd2.engine.schema import check_run, verified, weights
from kd2.engine.unpickle import read_file
from kd2.runs.best import Best
from kd2.runs.files import save_atomically
from kd2.runs.folder import BEST, FINAL


def read_checkpoint(source: str, key: str) -> dict[str, Any]:
    """The content of a checkpoint on the CPU, with its entries verified; no code of the file runs.

    Args:
        source: a file of ``torch.save``, a pickle of arrays as Detectron2's zoo has them, safetensors, or what else
            ``local_file`` takes: the address or published name of one, the folder of a run.
        key: the config key that named it, for errors.

    Raises:
        ConfigError: no file, a damaged or foreign one, an entry that is not what it must be; see ``local_file``,
            ``read_file`` and ``kd2.engine.schema``.
    """
    path = local_file(source, key)
    where = f"{key}: {source}" if path == source else f"{key}: {source} (kept in {path})"
    return verified(read_file(path, where), where)


def read_weights(source: str, key: str) -> dict[str, Tensor]:
    """The model's weights in a checkpoint: its entry ``model``, or the whole file when it is a bare state dict.

    Raises:
        ConfigError: see ``read_checkpoint``; something else than finite tensors.
    """
    content = read_checkpoint(source, key)
    return content["model"] if "model" in content else weights(content, f"{key}: {source}")


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


def best_of(cfg: CfgNode, saved: str | None) -> Best:
    """The best student so far of a run that begins, or of one that goes on from ``saved`` beside its model_best.pth."""
    path, metric = os.path.join(cfg.OUTPUT_DIR, BEST), cfg.TEST.BEST
    kept = saved_run(path)[0].get("best") if saved and metric and os.path.isfile(path) else None
    before = saved_run(saved)[0].get("best") if saved and metric else None
    return Best(metric, cfg.DATASETS.TEST, kept, cfg.TEST.PATIENCE, before)


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
    check_run(content, f"--resume: {path}")
    return content["kd2"], content["iteration"]


def class_names(content: dict[str, Any], kind: str) -> list[str]:
    """The class names of one kind that a checkpoint knows; empty where it does not say."""
    return list(content.get("kd2", {}).get("classes", {}).get(kind, []))


def saved_classes(path: str, key: str) -> dict[str, list[str]]:
    """Class names by kind that a checkpoint file knows; none for names, addresses and files of other tools."""
    if "://" in path or path.endswith((".pkl", ".pyth", ".yaml")):
        return {}
    content = read_checkpoint(path, key)
    return {kind: names for kind in ("things", "stuff", "images") if (names := class_names(content, kind))}


def teacher_classes(
    cfg: CfgNode, kind: str, weights: str, node: str, known: Sequence[str] = ()
) -> tuple[dict[str, list[str]], str]:
    """The class names of a teacher as far as they are known, and the key that tells them.

    Args:
        kind: what the key CLASSES of the teacher names.
        weights: the file of the teacher.
        node: a name from ``teacher_blocks``.
        known: the names that its publisher tells.
    """
    block = teacher_blocks(cfg)[node]
    own = list(block.get("CLASSES", ()))
    if own:
        return {kind: own}, f"{node}.CLASSES"
    if kind == "things":
        known = known or zoo_classes(block["WEIGHTS"])
    if known:
        return {kind: list(known)}, f"{node}.WEIGHTS"
    return saved_classes(weights, f"{node}.WEIGHTS") if weights else {}, f"{node}.WEIGHTS"


def _first(error: Exception) -> str:
    return str(error).split(". ")[0].strip()


class Match:
    """How a checkpoint's tensors met a model's, by name, shape and kind of number.

    Attributes:
        matched: part of the model's parameters and buffers, in elements, that the checkpoint fills; 0 to 1.
        missing, unexpected: names in the model, in the checkpoint, only.
        shapes: names of tensors that cannot be copied, with what differs (in the checkpoint, in the model): their
            shapes, or their types where one holds floats and the other whole numbers.
    """

    def __init__(self, model: nn.Module, state: dict[str, Tensor]):
        # A counter that only momentum-free batch norm reads; files of other tools leave it out.
        own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        self.shapes = differences(state, model.state_dict())
        self.missing = [k for k in own if k not in state]
        self.unexpected = [k for k in state if k not in own and not k.endswith("num_batches_tracked")]
        filled = sum(v.numel() for k, v in own.items() if k in state and k not in self.shapes)
        self.matched = filled / max(sum(v.numel() for v in own.values()), 1)

    def text(self) -> str:
        """One line: the matched part, and the first names that did not match."""
        part = self.matched if self.matched == 1 else min(self.matched, 0.999)  # all of it is said of all alone
        notes = [f"{100 * part:.1f} % of the weights matched"]
        for label, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("other shape", self._differing(tuple)),
            ("other type", self._differing(torch.dtype)),
        ):
            if names:
                notes.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(notes)

    def _differing(self, kind: type) -> list[str]:
        return [f"{k} {a} instead of {b}" for k, (a, b) in self.shapes.items() if isinstance(a, kind)]


def differences(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, tuple[Any, Any]]:
    """The attribute ``shapes`` of ``Match`` for a checkpoint's state and a model's own."""
    both = [(name, state[name], own[name]) for name in own if name in state]
    shapes = {name: (tuple(a.shape), tuple(b.shape)) for name, a, b in both if a.shape != b.shape}
    types = {name: (a.dtype, b.dtype) for name, a, b in both if a.is_floating_point() != b.is_floating_point()}
    return types | shapes


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
    if match.matched == 0 or (not partial and (match.matched < 1 or match.unexpected or match.shapes)):
        raise ConfigError(f"{key}: {source} does not fit the model: {match.text()}")
    model.load_state_dict({k: v for k, v in state.items() if k not in match.shapes}, strict=False)
    return match
