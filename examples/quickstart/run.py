"""The quick start from data to page: teacher, student alone and student distilled on the usual torchvision road."""

import contextlib
import logging
import os
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from examples.quickstart import own_data, shapes
from examples.quickstart.device import check_packages, export
from examples.quickstart.folder import own_folder
from examples.quickstart.progress import PhaseBar, Progress
from kd2.config import config_path, read
from kd2.data.detection.records import Records, read_coco
from kd2.engine import ONE_PROCESS, flow
from kd2.engine.lightning.run import experiment_of
from kd2.report.compare import compare

# Phases and about how long they take, in seconds of one core.
PHASES = {"data": 14, "teacher": 90, "student alone": 24, "student distilled": 44, "page": 30, "ONNX file": 10}
IMAGES = {"train": 1200, "val": 300}
_DRAWN = 4  # validation images on which the ONNX file is shown
_CONFIGS = "kd2://torchvision/quickstart/"


def quickstart(
    output: str,
    data: tuple[str, str] | None = None,
    seed: int = 1,
    iterations: int | None = None,
    images: dict[str, int] = IMAGES,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run everything; write the page of ``kd2.report.compare`` and the distilled student's ONNX file into ``output``.

    Args:
        output: a new or an empty folder, or with ``overwrite`` that of an earlier quick start.
        data: the user's COCO JSON and image folder; None draws shapes.
        iterations: of each training; None is what the config says.
        images: how many images of shapes to draw for ``train`` and ``val``.

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
    with _quiet(), Progress(PHASES) as progress:
        with progress.phase("data"):
            folder = os.path.join(output, "data")
            files = own_data.reduce(*data, folder, seed) if data else shapes.write(folder, images, seed)
            train, val = (read_coco(name, files[name], _folder(files[name])) for name in ("train", "val"))
            options = _options(files, len(val.classes), seed, iterations) + (own_data.OPTIONS if data else [])
        runs = _train_all(os.path.abspath(output), options, progress, overwrite)
        with progress.phase("page"):
            notes = _notes(data[0] if data else "drawn shapes", train, val, seed)
            pictures = [record["file_name"] for record in val.records[:_DRAWN]]
            content = compare(runs, output, title="Quick start", overwrite=overwrite, images=2, notes=notes)
        with progress.phase("ONNX file"):
            export(runs[-1], pictures, output)
    print(f"Everything took {(time.monotonic() - started) / 60:.1f} minutes.")
    return content


def _options(files: dict[str, str], classes: int, seed: int, iterations: int | None) -> list[str]:
    """``KEY VALUE`` pairs for all three trainings."""
    options = ["SEED", str(seed), "MODEL.RETINANET.NUM_CLASSES", str(classes)]
    for name, file in files.items():
        key, path = f"DATASETS.CUSTOM.quickstart_{name}", os.path.abspath(file)
        options += [f"{key}.JSON", path, f"{key}.IMAGES", _folder(path)]
    if iterations is not None:
        options += ["SOLVER.MAX_ITER", str(iterations)]
    return options


def _folder(json_file: str) -> str:
    return os.path.splitext(json_file)[0]


def _train_all(output: str, options: list[str], progress: Progress, overwrite: bool) -> list[str]:
    """Train the three; returns their folders."""
    teacher = os.path.join(output, "teacher")
    own = ["KD.TEACHER.CONFIG_FILE", os.path.join(teacher, "config.yaml")]
    own += ["KD.TEACHER.WEIGHTS", os.path.join(teacher, "model_final.pth")]
    runs = {
        "teacher": ("teacher", "teacher.yaml", []),
        "student": ("student alone", "distilled.yaml", ["KD.LOSSES.imitation.WEIGHT", "0"]),
        "distilled": ("student distilled", "distilled.yaml", own),
    }
    for name, (phase, file, more) in runs.items():
        with progress.phase(phase):
            place = ["OUTPUT_DIR", os.path.join(output, name)]
            _train(_CONFIGS + file, [*options, *more, *place], progress, overwrite)
    return [os.path.join(output, name) for name in runs]


def _train(config: str, options: list[str], progress: Progress, overwrite: bool) -> None:
    path, args = config_path(config), Namespace(**(vars(ONE_PROCESS) | {"overwrite": overwrite}))
    experiment = experiment_of(read(path, options), path, args)
    experiment.callbacks = (PhaseBar(progress),)
    flow.run(experiment)


def _notes(data: str, train: Records, val: Records, seed: int) -> list[str]:
    first = val.records[0]
    return [
        f"Data: {data}, {len(val.classes)} classes, {len(train.records)} images for training and {len(val.records)} "
        f"for validation; the first of these has {first['width']} x {first['height']} pixels.",
        f"All three are trained from scratch with seed {seed}; other seeds (--seed) show the spread. The student alone "
        "and the distilled student differ in the distillation loss alone.",
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
