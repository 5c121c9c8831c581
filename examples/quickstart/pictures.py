"""Training curves and detections as PNG files."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from examples.quickstart.report import Entry

_COLORS = {"teacher": "#444444", "student": "#d95f02", "distilled": "#1b9e77"}
_LABELS = {"teacher": "teacher", "student": "student alone", "distilled": "student distilled"}
# Iterations of a running mean.
_WINDOW = 30
# Width of one image.
_INCHES = 2.6
# Legends of more classes would be larger than the pictures.
_MOST_IN_LEGEND = 20
_HALO = [patheffects.withStroke(linewidth=3, foreground="black")]


def curves(path: str, teacher: Entry, student: Entry, distilled: Entry) -> None:
    """Detection loss of both students over iterations, and their AP on the way with the teacher's as a line."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss, ap = figure.subplots(1, 2)
    for entry in (student, distilled):
        color, label, last = _COLORS[entry.name], _LABELS[entry.name], len(entry.losses)
        smooth = _smoothed(entry.losses)
        loss.plot(range(1, last + 1), entry.losses, color=color, alpha=0.15, linewidth=0.8)
        loss.plot(range(last - len(smooth) + 1, last + 1), smooth, color=color, label=label, linewidth=2)
        ap.plot(list(entry.ap_at), list(entry.ap_at.values()), "o-", color=color, label=label)
    ap.axhline(teacher.ap, color=_COLORS["teacher"], linestyle="--", label="teacher, at its end")
    loss.set(title=f"Detection loss in training (mean of {_WINDOW})", xlabel="iteration", ylabel="loss", ylim=(0, None))
    ap.set(title="Validation AP", xlabel="iteration", ylabel="AP (%)", xlim=(0, None), ylim=(0, None))
    for axes in (loss, ap):
        axes.grid(alpha=0.3)
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """The mean of ``_WINDOW`` iterations, placed at the last of them."""
    window = min(_WINDOW, len(values))
    return np.convolve(values, np.ones(window) / window, mode="valid")


def predictions(
    path: str, images: Sequence[Tensor], columns: Mapping[str, Sequence[Mapping[str, Tensor]]], classes: Sequence[str]
) -> None:
    """A row an image, a column a source of boxes.

    Args:
        images: uint8 (3, H, W), RGB.
        columns: title or model's name -> per image ``boxes`` (M, 4) x1 y1 x2 y2 in pixels, ``labels`` (M,) from 0
            and, for detections, ``scores`` (M,).
    """
    colors = _class_colors(len(classes))
    heights = [_INCHES * image.shape[1] / image.shape[2] for image in images]
    figure = Figure(figsize=(_INCHES * len(columns), sum(heights) + 0.9), layout="constrained")
    grid = figure.subplots(len(images), len(columns), squeeze=False, height_ratios=heights)
    for row, image in enumerate(images):
        for axes, (title, found) in zip(grid[row], columns.items()):
            axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="bilinear")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(_LABELS.get(title, title))
            _boxes(axes, found[row], colors)
    if len(classes) <= _MOST_IN_LEGEND:
        keys = [Patch(color=color, label=name) for color, name in zip(colors, classes)]
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 7), frameon=False)
    figure.savefig(path, dpi=130)


def _boxes(axes: Axes, found: Mapping[str, Tensor], colors: list) -> None:
    scores = found["scores"].tolist() if "scores" in found else [None] * len(found["boxes"])
    for (x1, y1, x2, y2), label, score in zip(found["boxes"].tolist(), found["labels"].tolist(), scores):
        frame = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colors[label], linewidth=1.8)
        frame.set_path_effects([*_HALO, patheffects.Normal()])
        axes.add_patch(frame)
        if score is not None:
            axes.text(
                x1,
                y1,
                f"{100 * score:.0f}",
                fontsize=7,
                color="white",
                va="bottom",
                clip_on=True,
                bbox={"facecolor": "black", "alpha": 0.75, "edgecolor": "none", "pad": 1},
            )


def _class_colors(count: int) -> list:
    """Distinct colors: a list made for the eye up to nine, then evenly spaced hues."""
    return [colormaps["Set1"](i) if count <= 9 else colormaps["hsv"](i / count) for i in range(count)]
