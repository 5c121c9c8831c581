"""Pictures of a distillation: what its networks find and attend to, and what its losses see."""

from collections.abc import Iterator, Sequence

import torch
from matplotlib.figure import Figure

from kd2 import engine
from kd2.data.root import outside_allowed
from kd2.distill import ConfigError, DataError
from kd2.engine.permission import permitted
from kd2.losses import active_losses
from kd2.report import drawing
from kd2.report.views import Sides, View, sides_of, still, views_of

Pictures = Iterator[tuple[str, str, Figure]]  # name of a file, caption, figure
_FOUND = "What is annotated and what each network finds; scores in percent, from 30 on, of overlapping boxes the best."
_ERRORS = "Errors: right in green, wrong in red, missed in yellow and dashed; pixels of another class in red."
_ATTENTION = "Attention on tap {}: mean of absolute values over channels, each map from its smallest to its largest."


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
        images: pictures of the config's data sets, by path or name; empty: the first ``count`` of the test sets with
            an object.
        weights: the distilled student's file; empty: ``model_final.pth`` of OUTPUT_DIR, without one the student as it
            is before training.
        alone: file of the student that learned alone; empty: it is left out.
        allow_pickle: see ``kd2.engine.run``.

    Raises:
        ConfigError, DataError: as in training; an image that no data set has; no image that can be read. One among
            several that cannot be read is left out with a warning.
    """
    if not images and count < 1:
        raise ConfigError(f"--count is {count}, expected 1 or more")
    experiment = engine.experiment_of(config_file, list(options))
    if not active_losses(experiment.cfg.KD.LOSSES):
        raise ConfigError("KD.LOSSES has no loss with a weight or share other than 0: there is no distillation to show")
    still(experiment.cfg, trained=bool(images))
    with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE), permitted(pickles=allow_pickle), torch.no_grad():
        data = experiment.load_data("TRAIN")
        experiment.check(data, [])
        sides = sides_of(experiment, weights, alone)
        views = list(views_of(experiment, data, sides, images, count))
    if not views:
        raise DataError("no image could be read, see the lines above")
    names = next(iter(experiment.class_names(data).values()), [])
    return _pictures(views, sides, names)


def _pictures(views: list[View], sides: Sides, names: Sequence[str]) -> Pictures:
    shapes, titles = [view.pixels.shape for view in views], list(sides.models)
    colors = drawing.class_colors(len(names))
    rows = [
        (v.name, [drawing.objects(v.pixels, x, colors) for x in (v.wanted, *(v.found[t] for t in titles))])
        for v in views
    ]
    figure = drawing.grid(["annotated", *titles], rows, shapes)
    drawing.legend(figure, names, colors)
    yield "found", _FOUND, figure
    rows = [(v.name, [drawing.errors(v.pixels, v.found[t], v.wanted) for t in titles]) for v in views]
    yield "errors", _ERRORS, drawing.grid(titles, rows, shapes)
    for loss in views[0].shown:
        yield from _loss_pictures(loss, views, sides)
    for alias in sides.distiller.student_taps.specs:
        for number, view in enumerate(views, 1):
            yield f"attention_{alias}_{number}", _ATTENTION.format(alias), _attention(alias, view, titles, sides)


def _loss_pictures(loss: str, views: list[View], sides: Sides) -> Pictures:
    levels = _levels(sides.distiller.configs[loss].tap, sides)
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


def _levels(alias: str, sides: Sides) -> list[str]:
    """The maps of a tap as titles: ``fpn p3``, ``fpn 0``."""
    return [f"{alias} {level}" for level in sides.distiller.student_taps.level_names(alias)]


def _attention(alias: str, view: View, titles: Sequence[str], sides: Sides) -> Figure:
    levels = _levels(alias, sides)
    rows = []
    for level, name in enumerate(levels):
        maps = [view.maps[title][alias][level][0].float().abs().mean(0).cpu().numpy() for title in titles]
        heats = [drawing.heat(view.pixels, x, view.frame, whole=True) for x in maps]
        rows.append((name, [drawing.image(view.pixels), *heats]))
    return drawing.grid([view.name, *titles], rows, [view.pixels.shape] * len(rows))
