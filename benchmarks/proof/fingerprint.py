"""What a run computes, as a short text: equal for two runs that differ in seed, paths or commit alone."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd2.config import framework_of, read
from kd2.config.paths import found_path
from kd2.distill import ConfigError
from kd2.losses.blocks import complete_losses

ROOT = Path(__file__).resolve().parents[2]
# Name of the folder that holds DATA/RUN/ with the files of a run.
OUTPUT = "pays"
# Keys that say where a run lies, how often it is looked at, or what is scored.
_FREE = (
    "SEED", "VERSION", "OUTPUT_DIR", "TEST.EVAL_PERIOD", "DATASETS.TEST", "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
)  # fmt: skip
# What a student alone does not read.
_TEACHING = ("KD.TAPS", "KD.STUDENT.TAPS", "KD.LOSSES", "KD.TEACHER", "KD.TEACHERS")
# Of a teacher's block: what its own config and file stand for, and how it lies in memory.
_NAMED = ("CONFIG_FILE", "WEIGHTS", "OPTS", "CHANNELS_LAST")


def fingerprint(config: str, options: Mapping[str, Any]) -> str:
    """Twelve digits over all that a config file and KEY -> value say, and over the teachers that they name.

    A loss counts with its options, weight or share, defaults included; a data set that is not trained on does not
    count. A teacher counts with its taps and all that says how it runs, but not how it lies in memory. What the code
    takes where a config is silent, the commit stands for.

    Raises:
        ConfigError: see ``kd2.config.read``; a teacher's file that is absent.
    """
    loaded = read(config, as_words(options))
    framework = framework_of(loaded, config)
    kd = loaded.setdefault("KD", {})
    # At a rate of 1 adapters learn as the student does, which is what runs did before there was the key.
    blocks = {
        name: {key: x for key, x in block.items() if (key, x) != ("ADAPTER_LR", 1)}
        for name, block in complete_losses(kd.get("LOSSES", {})).items()
    }
    given = (kd.get("TEACHER", {}), *kd.get("TEACHERS", [])) if blocks else ()
    teachers = [_teacher(block, config, loaded) for block in given]
    for key in (*_FREE, *(() if blocks else _TEACHING), "KD.TEACHER", "KD.TEACHERS", "KD.LOSSES"):
        _drop(loaded, key.split("."))
    datasets = loaded.get("DATASETS", {})
    trained = (*datasets.get("TRAIN", ()), *kd.get("UNLABELED", {}).get("DATASETS", ()))
    datasets["CUSTOM"] = {name: x for name, x in datasets.get("CUSTOM", {}).items() if name in trained}
    whole = {"framework": framework, "config": {"KD": {}} | loaded, "losses": blocks, "teachers": teachers}
    if framework == "torchvision" and loaded.get("MODEL", {}).get("RETINANET", {}).get("NORM") == "BN":
        whole["norms"] = "by level"  # the first runs of such heads had one norm for all levels
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def as_words(options: Mapping[str, Any]) -> list[str]:
    """KEY -> value as the words of a command line."""
    return [word for key, value in options.items() for word in (key, str(value))]


def file_identity(path: str) -> str:
    """A file of weights by its content; one that a run of the grid leaves, by that run."""
    file = Path(path)
    if file.parts[-4:-3] == (OUTPUT,):  # its folder is named by what made it
        return file.parent.name
    if not file.is_file():
        raise ConfigError(f"the teacher's weights {path} are no file; --teacher names another one")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]


def _teacher(block: Mapping[str, Any], config: str, student: Mapping[str, Any]) -> dict[str, Any]:
    """All that is read of a teacher. Defaults of what did not count at first are left out, so that old hashes stay."""
    path = block.get("CONFIG_FILE", "")
    loaded = read(found_path(path, config) or str(ROOT / path), [str(word) for word in block.get("OPTS", [])])
    inputs = loaded.get("INPUT", {})
    read_of_it = {"model": loaded.get("MODEL", {}), "format": inputs.get("FORMAT", "")}
    if wrapped := loaded.get("KD", {}).get("STUDENT", {}).get("META_ARCHITECTURE"):
        read_of_it["wrapped"] = wrapped
    if inputs.get("SIZE") != student.get("INPUT", {}).get("SIZE"):
        read_of_it["size"] = inputs.get("SIZE")
    return read_of_it | _settings(block) | {"weights": file_identity(block.get("WEIGHTS", ""))}


def _settings(block: Mapping[str, Any]) -> dict[str, Any]:
    """How a teacher is tapped, run and weighed. Defaults are empty or False, and 1 of WEIGHT."""
    own = {key: x for key, x in block.items() if key not in _NAMED and x and (key, x) != ("WEIGHT", 1)}
    return {"settings": own} if own else {}


def _drop(node: dict[str, Any], key: list[str]) -> None:
    """Remove a key, and the groups that are empty then."""
    first, *rest = key
    if rest and first in node:
        _drop(node[first], rest)
    if not rest or node.get(first) == {}:
        node.pop(first, None)
