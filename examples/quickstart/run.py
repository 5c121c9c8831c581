"""The quick start from data to page: teacher, student alone and student distilled on the usual torchvision road."""

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from examples.quickstart import own_data, shapes, teacher
from examples.quickstart.device import check_packages, export
from examples.quickstart.folder import own_folder
from examples.quickstart.progress import PhaseBar, Progress
from examples.quickstart.training import data_options, experiment, image_folder
from kd2.data.detection.records import Records, read_coco
from kd2.engine import flow
from kd2.report.compare import compare
from kd2.runs.folder import CONFIG, FINAL

# Phases and about how long they take, in seconds of one core; a teacher that is trained takes longer.
PHASES = {"data": 7, "teacher": 6, "student alone": 62, "student distilled": 105, "page": 10, "ONNX file": 4}
_TRAINED_TEACHER = 170
IMAGES = {"train": 1200, "val": 300}
_DRAWN = 4  # validation images on which the ONNX file is shown


def quickstart(
    output: str,
    data: tuple[str, str] | None = None,
    seed: int = 1,
    iterations: int | None = None,
    images: dict[str, int] = IMAGES,
    overwrite: bool = False,
    train_teacher: bool = False,
) -> dict[str, Any]:
    """Run everything; write the page of ``kd2.report.compare`` and the distilled student's ONNX file into ``output``.

    Args:
        output: a new or an empty folder, or with ``overwrite`` that of an earlier quick start.
        data: the user's COCO JSON and image folder, whose teacher is trained here too; None draws shapes.
        iterations: of each training; None is what the config says.
        images: how many images of shapes to draw for ``train`` and ``val``.
        train_teacher: whether to train the teacher of shapes here instead of taking the one that is there.

    Returns:
        The content of ``report.json``.

    Raises:
        ConfigError: the output folder is not writable, or holds what no quick start wrote; a package is missing.
        DataError: the user's data cannot be used.
    """
    started = time.monotonic()
    check_packages()
    own_folder(output, data or (), overwrite)
    # The other cores load images. A thread that has to wait for its core holds up all others.
    torch.set_num_threads(max((os.cpu_count() or 2) // 2, 1))
    trained = train_teacher or data is not None
    with _quiet(), Progress(PHASES | ({"teacher": _TRAINED_TEACHER} if trained else {})) as progress:
        with progress.phase("data"):
            folder = os.path.join(output, "data")
            files = own_data.reduce(*data, folder, seed) if data else shapes.write(folder, images, seed)
            train, val = (read_coco(name, files[name], image_folder(files[name])) for name in ("train", "val"))
            options = data_options(files, len(val.classes), seed) + (own_data.OPTIONS if data else [])
            length = [] if iterations is None else ["SOLVER.MAX_ITER", str(iterations)]
        teaching = [*(own_data.TEACHER_OPTIONS if data else []), *length] if trained else None
        runs = _train_all(os.path.abspath(output), options, length, teaching, progress, overwrite)
        with progress.phase("page"):
            notes = _notes(data[0] if data else "drawn shapes", train, val, seed, trained)
            pictures = [record["file_name"] for record in val.records[:_DRAWN]]
            content = compare(runs, output, title="Quick start", overwrite=overwrite, images=2, notes=notes)
        with progress.phase("ONNX file"):
            export(runs[-1], pictures, output)
    print(f"Everything took {(time.monotonic() - started) / 60:.1f} minutes.")
    return content


def _train_all(
    output: str, options: list[str], length: list[str], teaching: list[str] | None, progress: Progress, overwrite: bool
) -> list[str]:
    """Train the students, and the teacher with the options ``teaching`` unless they are None; returns three folders."""
    runs = [os.path.join(output, name) for name in ("teacher", "student", "distilled")]
    own = ["KD.TEACHER.CONFIG_FILE", os.path.join(runs[0], CONFIG), "KD.TEACHER.WEIGHTS", os.path.join(runs[0], FINAL)]

    def train(config: str, folder: str, more: list[str]) -> None:
        every = [*options, *more, "OUTPUT_DIR", folder]
        flow.run(experiment(config, every, (PhaseBar(progress),), overwrite=overwrite))

    with progress.phase("teacher"):
        if teaching is None:
            teacher.place(runs[0], options, overwrite)
        else:
            train("teacher.yaml", runs[0], teaching)
    with progress.phase("student alone"):
        train("distilled.yaml", runs[1], [*length, "KD.LOSSES.imitation.WEIGHT", "0"])
    with progress.phase("student distilled"):
        train("distilled.yaml", runs[2], [*length, *own])
    return runs


def _notes(data: str, train: Records, val: Records, seed: int, trained: bool) -> list[str]:
    first = val.records[0]
    teacher_from = (
        "The teacher is trained here, on the same images."
        if trained
        else f"The teacher came trained on {teacher.IMAGES['teacher']:,} other images of the same kind, by `python -m "
        "examples.quickstart.teacher`."
    )
    return [
        f"Data: {data}, {len(val.classes)} classes, {len(train.records)} images for training and {len(val.records)} "
        f"for validation; the first of these has {first['width']} x {first['height']} pixels.",
        teacher_from,
        f"The students are trained from scratch with seed {seed}; other seeds (--seed) show the spread. The student "
        "alone and the distilled student differ in the distillation loss alone.",
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notes would tear the progress bar; kd2's are written above it."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), logging_redirect_tqdm([logging.getLogger("kd2")]):
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
