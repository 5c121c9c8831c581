"""The quick start from data to report: teacher, student alone and student distilled on the usual torchvision path."""

import contextlib
import logging
import os
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.ops import nms
from tqdm.contrib.logging import logging_redirect_tqdm

from examples.quickstart import own_data, pictures, report, shapes
from examples.quickstart.folder import own_folder
from examples.quickstart.measure import cost
from examples.quickstart.progress import Curve, PhaseBar, Progress
from examples.quickstart.report import Entry, Setting
from kd2.config import config_path, read
from kd2.data.detection.records import Records, read_coco
from kd2.engine import ONE_PROCESS, flow
from kd2.engine.lightning.detection.data import DetectionMapper
from kd2.engine.lightning.experiment import LightningExperiment
from kd2.engine.lightning.run import experiment_of

# Phases and about how long they take, in seconds of one core.
PHASES = {"data": 20, "teacher": 200, "student alone": 70, "student distilled": 115, "measuring": 15}
IMAGES = {"train": 1200, "val": 300}
# Images that latency is measured on, rows of the picture of detections, and the score from which on they are drawn.
_TIMED, _ROWS, _SCORE = 8, 4, 0.3
_CONFIGS = "kd2://torchvision/quickstart/"

# Image uint8 (3, H, W), target, record: what a mapper returns.
View = tuple[Tensor, dict[str, Tensor], dict]


@dataclass(frozen=True)
class Trained:
    """One training that is over: what was run, metrics, duration in seconds and curve."""

    experiment: LightningExperiment
    scores: dict[str, float]
    seconds: float
    curve: Curve


def quickstart(
    output: str,
    data: tuple[str, str] | None = None,
    seed: int = 1,
    iterations: int | None = None,
    images: dict[str, int] = IMAGES,
    overwrite: bool = False,
) -> dict:
    """Run everything; write ``report.md``, ``report.json``, ``curves.png`` and ``predictions.png`` into ``output``.

    Args:
        output: a new or an empty folder, or with ``overwrite`` that of an earlier quick start.
        data: the user's COCO JSON and image folder; None draws shapes.
        iterations: of each training; None is what the config says.
        images: how many images of shapes to draw for ``train`` and ``val``.

    Returns:
        The content of ``report.json``.

    Raises:
        ConfigError: the output folder is not writable, or holds what no quick start wrote.
        DataError: the user's data cannot be used.
    """
    started = time.monotonic()
    own_folder(output, data or (), overwrite)
    # The other cores load images. A thread that has to wait for its core holds up all others.
    torch.set_num_threads(max((os.cpu_count() or 2) // 2, 1))
    with _quiet(), Progress(PHASES) as progress:
        with progress.phase("data"):
            folder = os.path.join(output, "data")
            files = own_data.reduce(*data, folder, seed) if data else shapes.write(folder, images, seed)
            train_data, val = (read_coco(name, files[name], _folder(files[name])) for name in ("train", "val"))
            options = _options(files, len(val.classes), seed, iterations) + (own_data.OPTIONS if data else [])
        trained = _train_all(os.path.abspath(output), options, progress, overwrite)
        with progress.phase("measuring"):
            models = {name: _final(run.experiment) for name, run in trained.items()}
            views = _views(trained["distilled"].experiment.cfg, val)
            entries = [_entry(name, run, models[name], views) for name, run in trained.items()]
            pictures.curves(os.path.join(output, "curves.png"), *entries)
            pictures.predictions(os.path.join(output, "predictions.png"), *_columns(models, views[:_ROWS]), val.classes)
    name = data[0] if data else f"drawn shapes (seed {seed})"
    setting = _setting(
        name, trained["distilled"].experiment.cfg, len(train_data.records), val, time.monotonic() - started
    )
    return report.write(output, entries, setting)


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


def _train_all(output: str, options: list[str], progress: Progress, overwrite: bool) -> dict[str, Trained]:
    teacher = os.path.join(output, "teacher")
    runs = {
        "teacher": ("teacher", "teacher.yaml", []),
        "student": ("student alone", "distilled.yaml", ["KD.LOSSES.imitation.WEIGHT", "0"]),
        "distilled": (
            "student distilled",
            "distilled.yaml",
            [
                "KD.TEACHER.CONFIG_FILE",
                os.path.join(teacher, "config.yaml"),
                "KD.TEACHER.WEIGHTS",
                os.path.join(teacher, "model_final.pth"),
            ],
        ),
    }
    trained = {}
    for name, (phase, file, own) in runs.items():
        with progress.phase(phase):
            place = ["OUTPUT_DIR", os.path.join(output, name)]
            trained[name] = _train(_CONFIGS + file, [*options, *own, *place], progress, overwrite)
    return trained


def _train(config: str, options: list[str], progress: Progress, overwrite: bool) -> Trained:
    started, curve = time.monotonic(), Curve()
    path, args = config_path(config), Namespace(**(vars(ONE_PROCESS) | {"overwrite": overwrite}))
    experiment = experiment_of(read(path, options), path, args)
    experiment.callbacks = (PhaseBar(progress), curve)
    scores = flow.run(experiment)
    return Trained(experiment, scores, time.monotonic() - started, curve)


def _final(experiment: LightningExperiment) -> nn.Module:
    """The trained detector, read from its file, on the CPU in eval mode."""
    path, model = os.path.join(experiment.cfg.OUTPUT_DIR, "model_final.pth"), experiment.build_student().module
    experiment.load_weights(model, path, "OUTPUT_DIR", partial=False)
    return model.eval()


def _views(cfg: CfgNode, val: Records) -> list[View]:
    mapper = DetectionMapper(cfg, training=False, masks=False)
    return [mapper(record) for record in val.records[:_TIMED]]


def _entry(name: str, run: Trained, model: nn.Module, views: list[View]) -> Entry:
    each = cost(model, [image.float() / 255 for image, _, _ in views])
    ap, ap50 = run.scores["bbox/AP"], run.scores["bbox/AP50"]
    return Entry(name, ap, ap50, each, run.seconds, run.curve.losses, run.curve.ap)


@torch.no_grad()
def _columns(models: dict[str, nn.Module], views: list[View]) -> tuple[list[Tensor], dict[str, list[dict]]]:
    """The images, and the columns of their picture: ground truth and what each model finds."""
    columns = {"ground truth": [target for _, target, _ in views]}
    for name, model in models.items():
        outputs = model([image.float() / 255 for image, _, _ in views])
        columns[name] = [_shown(output) for output in outputs]
    return [image for image, _, _ in views], columns


def _shown(output: dict[str, Tensor]) -> dict[str, Tensor]:
    """The detections worth drawing: the best of those that overlap, whatever their class, from ``_SCORE`` on."""
    best = nms(output["boxes"], output["scores"], iou_threshold=0.5)
    best = best[output["scores"][best] >= _SCORE]
    return {key: value[best] for key, value in output.items()}


def _setting(data: str, cfg: CfgNode, train_images: int, val: Records, seconds: float) -> Setting:
    first = val.records[0]
    return Setting(
        data,
        val.classes,
        train_images,
        len(val.records),
        (first["height"], first["width"]),
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SEED,
        torch.get_num_threads(),
        seconds,
    )


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
