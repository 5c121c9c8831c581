"""Images as a teacher, a student alone and a distilled student see them."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from kd2.distill import USER_ERRORS, ConfigError, DataError, Distiller, nearest
from kd2.engine.pair import build_distiller
from kd2.engine.weights.checkpoint import read_checkpoint
from kd2.report import seen
from kd2.runs.folder import FINAL

logger = logging.getLogger(__name__)

TEACHER, ALONE, DISTILLED, UNTRAINED = "teacher", "student alone", "distilled student", "student before training"


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


def still(cfg: Any, trained: bool = False) -> None:
    """Make training read whole images of the test sets in the size of a test.

    Args:
        trained: whether those of the training sets follow; without a test set they are alone.

    Raises:
        ConfigError: the student is of a LazyConfig file, whose mapper may read no whole images.
    """
    if cfg.MODEL.get("LAZY_CONFIG"):
        raise ConfigError(f"MODEL.LAZY_CONFIG is {cfg.MODEL.LAZY_CONFIG}: such a student is not drawn and not timed")
    cfg.defrost()
    more = cfg.DATASETS.TRAIN if trained or not cfg.DATASETS.TEST else []
    cfg.DATASETS.TRAIN = list(dict.fromkeys([*cfg.DATASETS.TEST, *more]))
    if "UNLABELED" in cfg.KD:
        cfg.KD.UNLABELED.DATASETS = []
    if "MIN_SIZE_TRAIN" in cfg.INPUT:
        cfg.INPUT.MIN_SIZE_TRAIN = [cfg.INPUT.MIN_SIZE_TEST or max(cfg.INPUT.MIN_SIZE_TRAIN)]
        cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = cfg.INPUT.MAX_SIZE_TEST, "choice"
        cfg.INPUT.RANDOM_FLIP = "none"
    if "CROP" in cfg.INPUT:
        cfg.INPUT.CROP.ENABLED = False


def sides_of(experiment: Any, weights: str, alone: str) -> Sides:
    """The networks of a config; ``weights`` and ``alone`` as for ``kd2.report.look.look``.

    Raises:
        ConfigError: a model that cannot be built, a file that does not fit it.
    """
    cfg = experiment.cfg
    final = os.path.join(cfg.OUTPUT_DIR, FINAL)
    weights = weights or (final if os.path.isfile(final) else "")
    if weights:
        experiment.leave_unfilled()
    distiller, facts = build_distiller(experiment, with_weights=not weights, whole_teacher=True)
    if weights:
        experiment.load_weights(distiller.student, weights, "weights of the student", partial=False)
        _load_adapters(distiller, weights)
    models = {TEACHER: distiller.teacher.model}
    if alone:
        models[ALONE] = experiment.build_student().module
        experiment.load_weights(models[ALONE], alone, "weights of the student alone", partial=False)
    models[DISTILLED if weights else UNTRAINED] = distiller.student
    device = next(distiller.student.parameters()).device
    distiller.eval().to(device)
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


def views_of(experiment: Any, data: list, sides: Sides, images: Sequence[str], count: int) -> Iterator[View]:
    """The chosen images of training sets, one after the other; warns of those that cannot be read.

    Raises:
        DataError: an image that no data set has.
    """
    sources = [experiment.view(part) for part in data]
    for record, batch_of in _chosen(sources, images, count):
        name = os.path.basename(record["file_name"])
        try:
            batch = batch_of(record)
        except USER_ERRORS as error:
            logger.warning("left out: %s", error)
            continue
        device = next(sides.distiller.student.parameters()).device
        yield _view(name, seen.moved(batch, device), sides, experiment.cfg.INPUT.FORMAT)


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
