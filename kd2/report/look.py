"""What distillation sees on chosen images: a teacher, a student alone and a distilled student in one view."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from kd2 import engine
from kd2.data.root import outside_allowed
from kd2.distill import USER_ERRORS, ConfigError, DataError, Distiller, nearest
from kd2.engine.checkpoint import read_checkpoint
from kd2.engine.flow import build_distiller
from kd2.engine.unpickle import pickles_allowed
from kd2.losses import active_losses
from kd2.report import drawing, seen
from kd2.runs.folder import FINAL

logger = logging.getLogger(__name__)

TEACHER, ALONE, DISTILLED, UNTRAINED = "teacher", "student alone", "distilled student", "student before training"
Pictures = Iterator[tuple[str, str, Figure]]  # name of a file, caption, figure


@dataclass(frozen=True)
class Sides:
    """The networks that are looked at, in eval mode, and how each of them is run on a batch of one.

    Attributes:
        models: title -> network; the student that the losses see is the last.
        run: title and batch to the network's output, see ``Experiment.predict``.
    """

    distiller: Distiller
    models: dict[str, nn.Module]
    run: Callable[[str, Any], Any]

    @property
    def student(self) -> str:
        """Title of the student that the losses see."""
        return list(self.models)[-1]


@dataclass(frozen=True)
class View:
    """One image as all sides see it.

    Attributes:
        pixels: (H, W, 3) of the resized image.
        frame: (H, W) of the padded batch.
        found: title -> what the side finds there.
        maps: title -> alias of a tap -> its maps (1, C, h, w).
        shown: loss -> name -> maps (1, h, w) a level.
    """

    name: str
    pixels: np.ndarray
    frame: tuple[int, int]
    wanted: seen.Found
    found: dict[str, seen.Found]
    maps: dict[str, dict[str, list[Tensor]]]
    shown: dict[str, dict[str, list[Tensor]]]


def look(
    config_file: str,
    options: Sequence[str] = (),
    *,
    images: Sequence[str] = (),
    count: int = 3,
    weights: str = "",
    alone: str = "",
    allow_pickle: bool = False,
) -> Pictures:
    """The pictures of a distillation, one after the other.

    Args:
        config_file, options: as in training; at least one loss counts.
        images: pictures of the config's data sets, by path or name; empty: the first ``count`` with an object.
        weights: the distilled student's file; empty: ``model_final.pth`` of OUTPUT_DIR, without one the student as it
            is before training.
        alone: file of the student that learned alone; empty: it is left out.
        allow_pickle: see ``kd2.engine.run``.

    Raises:
        ConfigError, DataError: as in training; an image that no data set has; no image that can be read. One among
            several that cannot be read is left out with a warning.
    """
    experiment = engine.experiment_of(config_file, list(options))
    if not active_losses(experiment.cfg.KD.LOSSES):
        raise ConfigError("KD.LOSSES has no loss with a weight or share other than 0: there is no distillation to show")
    still(experiment.cfg)
    with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE), pickles_allowed(allow_pickle), torch.no_grad():
        data = experiment.load_data("TRAIN")
        experiment.check(data, [])
        sides = _sides(experiment, weights, alone)
        views = list(_views(experiment, data, sides, images, count))
    if not views:
        raise DataError("no image could be read, see the lines above")
    names = next(iter(experiment.class_names(data).values()))
    return _pictures(views, sides, names)


def still(cfg: Any) -> None:
    """Make training read whole images of the test sets, then of the training sets, in the size of a test."""
    cfg.defrost()
    cfg.DATASETS.TRAIN = list(dict.fromkeys([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]))
    if "UNLABELED" in cfg.KD:
        cfg.KD.UNLABELED.DATASETS = []
    if "MIN_SIZE_TRAIN" in cfg.INPUT:
        cfg.INPUT.MIN_SIZE_TRAIN = [cfg.INPUT.MIN_SIZE_TEST or max(cfg.INPUT.MIN_SIZE_TRAIN)]
        cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = cfg.INPUT.MAX_SIZE_TEST, "choice"
        cfg.INPUT.RANDOM_FLIP = "none"
    if "CROP" in cfg.INPUT:
        cfg.INPUT.CROP.ENABLED = False


def _sides(experiment: Any, weights: str, alone: str) -> Sides:
    cfg = experiment.cfg
    final = os.path.join(cfg.OUTPUT_DIR, FINAL)
    weights = weights or (final if os.path.isfile(final) else "")
    distiller, facts = build_distiller(experiment, with_weights=not weights)
    if weights:
        experiment.load_weights(distiller.student, weights, "weights of the student", partial=False)
        _load_adapters(distiller, weights)
    models = {TEACHER: distiller.teacher.model}
    if alone:
        models[ALONE] = experiment.build_student().module
        experiment.load_weights(models[ALONE], alone, "weights of the student alone", partial=False)
    models[DISTILLED if weights else UNTRAINED] = distiller.student
    distiller.eval()
    for model in models.values():
        model.eval()
    reverse = len(set(facts["color order"])) > 1

    def run(title: str, batch: Any) -> Any:
        if title == TEACHER and reverse:
            batch = seen.reversed_colors(batch)
        return experiment.predict(models[title], seen.in_own_size(batch))

    return Sides(distiller, models, run)


def _load_adapters(distiller: Distiller, weights: str) -> None:
    """Those that a run trained beside its student; a plain file has none."""
    adapters = read_checkpoint(weights, "weights of the student").get("adapters", {})
    try:
        distiller.losses.load_state_dict(adapters)
    except RuntimeError:
        logger.warning("%s has no adapters for these losses: what they show is not what was trained", weights)


def _views(experiment: Any, data: list, sides: Sides, images: Sequence[str], count: int) -> Iterator[View]:
    sources = [experiment.view(part) for part in data]
    for record, batch_of in _chosen(sources, images, count):
        name = os.path.basename(record["file_name"])
        try:
            batch = batch_of(record)
        except USER_ERRORS as error:
            logger.warning("left out: %s", error)
            continue
        yield _view(name, batch, sides, experiment.cfg.INPUT.FORMAT)


def _chosen(sources: list, images: Sequence[str], count: int) -> list[tuple[dict, Callable]]:
    """Records of the ``images``, or without any more than ``count`` that have an object, and what reads each."""
    pairs = [(record, batch_of) for records, batch_of in sources for record in records]
    if not images:
        return [pair for pair in pairs if pair[0].get("annotations") or "sem_seg_file_name" in pair[0]][:count]
    by_path = {os.path.realpath(pair[0]["file_name"]): pair for pair in reversed(pairs)}
    by_name = {os.path.basename(path): pair for path, pair in by_path.items()}
    found = []
    for path in images:
        pair = by_path.get(os.path.realpath(path)) or by_name.get(os.path.basename(path))
        if pair is None:
            hint = nearest(os.path.basename(path), by_name)
            raise DataError(f"--images: {path} is no picture of DATASETS.TEST or DATASETS.TRAIN; {hint}")
        found.append(pair)
    return found


def _view(name: str, batch: Any, sides: Sides, color_order: str) -> View:
    distiller = sides.distiller
    info = distiller.placed_batch_info(batch)
    taps = {TEACHER: distiller.teacher.taps, sides.student: distiller.student_taps}
    found, maps = {}, {}
    for title, model in sides.models.items():
        own = taps.get(title) or distiller.student_taps.on(model)
        with own.capture() as captured:
            found[title] = seen.output(sides.run(title, batch))
        maps[title] = captured
    shown = {}
    for loss_name, loss in distiller.losses.items():
        if hasattr(loss, "shown"):
            info.loss_name, tap = loss_name, distiller.configs[loss_name].tap
            shown[loss_name] = loss.shown(maps[sides.student][tap], maps[TEACHER][tap], info)
    return View(name, seen.picture(batch, color_order), info.padded_size, seen.truth(batch), found, maps, shown)


def _pictures(views: list[View], sides: Sides, names: Sequence[str]) -> Pictures:
    shapes, titles = [view.pixels.shape for view in views], list(sides.models)
    colors = drawing.class_colors(len(names))
    rows = [
        (v.name, [drawing.objects(v.pixels, x, colors) for x in (v.wanted, *(v.found[t] for t in titles))])
        for v in views
    ]
    figure = drawing.grid(["annotated", *titles], rows, shapes)
    drawing.legend(figure, names, colors)
    yield (
        "found",
        _FOUND,
        figure,
    )
    rows = [(v.name, [drawing.errors(v.pixels, v.found[t], v.wanted) for t in titles]) for v in views]
    yield "errors", _ERRORS, drawing.grid(titles, rows, shapes)
    for loss in views[0].shown:
        yield from _loss_pictures(loss, views, sides)
    for alias in sides.distiller.student_taps.specs:
        for number, view in enumerate(views, 1):
            yield f"attention_{alias}_{number}", _ATTENTION.format(alias), _attention(alias, view, titles, sides)


_FOUND = "What is annotated and what each network finds; scores in percent, from 30 on, of overlapping boxes the best."
_ERRORS = "Errors: right in green, wrong in red, missed in yellow and dashed; pixels of another class in red."
_ATTENTION = "Attention on tap {}: mean of absolute values over channels, each map from its smallest to its largest."


def _loss_pictures(loss: str, views: list[View], sides: Sides) -> Pictures:
    levels = sides.distiller.student_taps.level_names(sides.distiller.configs[loss].tap)
    for name in views[0].shown[loss]:
        rows = [
            (v.name, [drawing.heat(v.pixels, x[0].cpu().numpy(), v.frame) for x in v.shown[loss][name]]) for v in views
        ]
        shapes = [view.pixels.shape for view in views]
        yield (
            f"{loss}_{name}",
            f"Loss {loss}: {name}, level by level.",
            drawing.grid(levels, rows, shapes),
        )


def _attention(alias: str, view: View, titles: Sequence[str], sides: Sides) -> Figure:
    levels = sides.distiller.student_taps.level_names(alias)
    rows = []
    for level, name in enumerate(levels):
        maps = [view.maps[title][alias][level][0].float().abs().mean(0).cpu().numpy() for title in titles]
        heats = [drawing.heat(view.pixels, x, view.frame, whole=True) for x in maps]
        rows.append((name, [drawing.image(view.pixels), *heats]))
    return drawing.grid([view.name, *titles], rows, [view.pixels.shape] * len(rows))
