"""Checkpoints: one schema, read without running code. ``kd2.runs`` writes them.

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

from fvcore.common.config import CfgNode
from torch import Tensor

from kd2 import __version__
from kd2.config import teacher_blocks
from kd2.engine.weights.fetch import local_file
from kd2.engine.weights.names import zoo_classes
from kd2.engine.weights.schema import check_run, verified, weights
from kd2.engine.weights.unpickle import read_file
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
            ``read_file`` and ``kd2.engine.weights.schema``.
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
