"""A run as its folder tells it: config, scores, log, how far it is. No model is built and no checkpoint read."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd2.config import framework_of, read
from kd2.distill import ConfigError, DataError
from kd2.losses import active_losses
from kd2.report.logs import Row, read_log
from kd2.runs.folder import CONFIG, FINAL, RESULTS, newest_student

_NOUNS = {int: "a whole number", dict: "a group of keys", str: "a text", list: "a list"}


@dataclass(frozen=True)
class Run:
    """A finished or a running training.

    Attributes:
        folder: as it was given.
        config: the whole config of its last start, as plain values.
        scores: of its last evaluation by name (``bbox/AP``), in percent; empty before the first.
        rows: its log; empty where there is none.
        finished: whether the student at the end is there.
    """

    folder: str
    config: Mapping[str, Any]
    scores: Mapping[str, float]
    rows: Sequence[Row] = field(repr=False)
    finished: bool

    @property
    def seed(self) -> int:
        """The seed of its draws."""
        return int(self.config["SEED"])

    @property
    def losses(self) -> list[str]:
        """The distillation losses that count, by name."""
        return list(active_losses(self.config["KD"]["LOSSES"]))

    @property
    def teachers(self) -> list[str]:
        """``WEIGHTS`` of its teachers: of ``KD.TEACHER``, then of ``KD.TEACHERS``."""
        further = self.config["KD"].get("TEACHERS", [])
        return [self.config["KD"]["TEACHER"]["WEIGHTS"], *(x.get("WEIGHTS", "") for x in further)]

    @property
    def weights(self) -> str:
        """The file of the student at the end."""
        return os.path.join(self.folder, FINAL)

    @property
    def state(self) -> str:
        """``finished``, or how many iterations are done."""
        done = max((int(row["step"]) + 1 for row in self.rows), default=0)
        return "finished" if self.finished else f"iteration {done} of {self.config['SOLVER']['MAX_ITER']}"


def read_run(folder: str) -> Run:
    """The run in ``folder``.

    Raises:
        DataError: no folder of a run, or one whose files are damaged; names what is missing.
    """
    path = os.path.join(folder, CONFIG)
    if not os.path.isfile(path):
        what = f"it has no {CONFIG}" if os.path.isdir(folder) else "there is no such folder"
        raise DataError(f"{folder} is not the folder of a run: {what}")
    try:
        config = read(path)
        framework_of(config, path)
    except ConfigError as error:
        raise DataError(f"{folder} is not the folder of a run: {error}") from None
    _check_config(config, path)
    rows = _log(folder)
    finished = _finished(folder)
    scores = (_results(os.path.join(folder, RESULTS)) if finished else {}) or _last_scores(rows, finished)
    return Run(folder, config, scores, rows, finished)


def score_kind(name: str) -> str:
    """What a score of this name is of: ``size``, ``class`` or ``total``."""
    last = name.rpartition("/")[2]
    return "size" if last in ("APs", "APm", "APl") else "class" if "-" in last else "total"


def _check_config(config: Mapping[str, Any], path: str) -> None:
    """Raises DataError when a value that a comparison reads is missing or of another type than a run writes."""
    expected = {
        "SEED": int, "KD.LOSSES": dict, "KD.TEACHER.WEIGHTS": str, "SOLVER.MAX_ITER": int, "MODEL": dict,
        "DATASETS.TEST": list, "DATASETS.CUSTOM": dict,
    }  # fmt: skip
    for key, kind in expected.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind):
            raise DataError(f"{path} is not the config of a run: {key} is {value!r}, expected {_NOUNS[kind]}")
    further = config["KD"].get("TEACHERS", [])
    for key, blocks in (("LOSSES", list(config["KD"]["LOSSES"].values())), ("TEACHERS", further)):
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise DataError(f"{path} is not the config of a run: KD.{key} is {config['KD'][key]!r}")


def _log(folder: str) -> list[Row]:
    try:
        return read_log(folder)
    except DataError as error:
        if "no log" in str(error):
            return []
        raise


def _results(path: str) -> dict[str, float]:
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            return {str(name): math.nan if x is None else float(x) for name, x in json.load(file).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged, expected numbers by name ({error})") from None


def _finished(folder: str) -> bool:
    """Whether the student at the end is there; a finished run that goes on is not finished any more."""
    try:
        newest = newest_student(folder)
    except ConfigError as error:
        raise DataError(f"{folder} is not the folder of a run: {error}") from None
    return newest == os.path.join(folder, FINAL) and os.path.isfile(newest)


def _last_scores(rows: Sequence[Row], finished: bool) -> dict[str, float]:
    """The scores of the last evaluation in a log; of a ``finished`` run none that came before its last iteration."""
    evaluated = [row for row in rows if any(is_score(name) for name in row)]
    if not evaluated or finished and evaluated[-1]["step"] < max(row["step"] for row in rows):
        return {}
    return {name: x for name, x in evaluated[-1].items() if is_score(name)}


def is_score(name: str) -> bool:
    """Whether a number of the log is a score: ``bbox/AP``, ``sem_seg/mIoU``, ``cls/top1``, of a data set or of all."""
    kind = name.split("/")[-2] if "/" in name else ""
    return kind in ("bbox", "segm", "keypoints", "sem_seg", "panoptic_seg", "cls", "bbox_TTA", "segm_TTA")
