"""Whose weights the students of a section learn from: a file that is there, or what a run leaves that comes first."""

import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.proof.fingerprint import file_identity
from benchmarks.proof.grid import MAIN, Grid, Run
from kd2.distill import ConfigError
from kd2.engine.weights.checkpoint import read_weights
from kd2.runs.files import save_atomically


@dataclass(frozen=True)
class Teacher:
    """The teacher of a section.

    Attributes:
        run: its training, or for a file that is given its evaluation.
        given: whether a file is given.
        source: the weights that are given or trained.
        factors: pattern of key names, as of file names -> what those weights are multiplied by.
        weights: what the students load: ``source``, or a copy with ``factors``.
    """

    run: Run
    given: bool
    source: str
    weights: str
    factors: Mapping[str, float] = field(default_factory=dict)


def student_file(output: Path, run: Run) -> str:
    """Where the student of a run lies."""
    return str(output / run.data / run.folder / "model_final.pth")


def teacher_of(grid: Grid, road: str, section: str, given: str | None, iterations: int | None, output: Path) -> Teacher:
    """The teacher of a section on a road; nothing is written or trained.

    Args:
        given: a file for the road's teacher instead of the grid's.
        iterations: of the trainings, where the teacher is a student of this grid.
        output: the folder of the runs.

    Raises:
        ConfigError: the file does not exist.
    """
    block = grid.section(section)
    if "teacher" in block:
        runs = grid.runs(road, MAIN, [block["teacher"]["seed"]], "", iterations, [block["teacher"]["row"]])
        return Teacher(runs[0], False, *[student_file(output, runs[0])] * 2)
    run, file = grid.teacher(road), given or grid.teacher_file(road)
    if file:
        options = {**run.options, "MODEL.WEIGHTS": file}
        run = dataclasses.replace(run, options=options, hash=file_identity(file))
    source = file or student_file(output, run)
    factors = block.get("scale", {})
    weights = scaled_file(source, factors, output / grid.data) if factors else source
    return Teacher(run, bool(file), source, weights, factors)


def scaled_file(source: str, factors: Mapping[str, float], folder: Path) -> str:
    """Where the copy of ``source`` with ``factors`` lies; the name of its folder says what it is."""
    told = hashlib.sha256(json.dumps([file_identity(source), factors]).encode()).hexdigest()[:12]
    return str(folder / f"scaled-{told}" / "model.pth")


def write_scaled(teacher: Teacher) -> None:
    """Write the copy of the teacher's weights with its factors, whole or not at all.

    Raises:
        ConfigError: a pattern that fits no key.
    """
    state = dict(read_weights(teacher.source, "--teacher"))
    for pattern, factor in teacher.factors.items():
        keys = fnmatch.filter(state, pattern)
        if not keys:
            raise ConfigError(f"scale: {pattern!r} fits no key of {teacher.source}")
        state |= {key: state[key] * factor for key in keys}
    Path(teacher.weights).parent.mkdir(parents=True, exist_ok=True)
    save_atomically({"model": state}, teacher.weights)
