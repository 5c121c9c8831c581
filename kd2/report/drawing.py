"""Pictures by matplotlib: heat maps over images, what models find, and where they err."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from kd2.report.data_pictures import color_of
from kd2.report.seen import Found, shown_names

# Paints one cell of a grid.
Paint = Callable[[Axes], None]
Rgb = tuple[float, float, float]

_INCHES = 2.8  # width of a cell
_LEAST = 0.3  # score from which on a detection is drawn
_OVERLAP = 0.5  # IoU from which on a detection has found an object
_IGNORED = 255
_MOST_IN_LEGEND = 20
_LETTERS = 10  # of a row's name, to an inch
RIGHT, WRONG, MISSED = (0.1, 0.75, 0.2), (0.95, 0.1, 0.1), (1.0, 0.75, 0.0)
_HALO = [patheffects.withStroke(linewidth=3, foreground="black"), patheffects.Normal()]


def grid(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Paint]]], shapes: Sequence[tuple]) -> Figure:
    """Cells in rows; a row has a name, and ``shapes`` its pictures' (H, W, ...)."""
    heights = [_INCHES * shape[0] / shape[1] for shape in shapes]
    size = _INCHES * len(columns) + 0.3, sum(heights) + 0.08 * len(rows) + 0.35
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for line, (name, paints), height in zip(axes, rows, heights):
        for cell, paint in zip(line, paints):
            paint(cell)
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        line[0].set_ylabel(fitting(name, int(height * _LETTERS)), fontsize=9)
    for cell, title in zip(axes[0], columns):
        cell.set_title(title, fontsize=10)
    return figure


def fitting(name: str, most: int) -> str:
    """A name of at most ``most`` letters, 3 or more: a longer one lacks its middle, as both ends tell files apart."""
    front, back = most // 2, most - most // 2 - 1
    return name if len(name) <= most else f"{name[:front]}\u2026{name[len(name) - back :]}"


def image(pixels: np.ndarray) -> Paint:
    """The picture (H, W, 3) alone."""
    return lambda axes: axes.imshow(pixels)


def heat(pixels: np.ndarray, values: np.ndarray, frame: tuple[int, int], whole: bool = False) -> Paint:
    """A map (h, w) over the gray picture, from its smallest value (blue) to its largest (red).

    Args:
        frame: (H, W) in pixels that the whole map stands for: the padded size.
        whole: whether every cell is painted; otherwise those of value 0 show the picture alone.
    """
    values = np.asarray(values, float)

    def paint(axes: Axes) -> None:
        axes.imshow(_gray(pixels))
        drawn = values if whole else np.ma.masked_equal(values, 0)
        low = values.min() if whole else 0.0
        high = max(float(values.max()), low + 1e-12)
        axes.imshow(drawn, extent=(-0.5, frame[1] - 0.5, frame[0] - 0.5, -0.5), cmap="jet", alpha=0.5, vmin=low,
                    vmax=high, interpolation="bilinear" if whole else "nearest")  # fmt: skip
        axes.set(xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(pixels.shape[0] - 0.5, -0.5))

    return paint


def objects(pixels: np.ndarray, found: Found, colors: Sequence[Rgb]) -> Paint:
    """Boxes, masks and classes of pixels in the colors of their classes; scores in percent."""

    def paint(axes: Axes) -> None:
        axes.imshow(pixels)
        if found.pixels is not None:
            axes.imshow(_painted(found.pixels, colors), alpha=0.55)
        shown = clear(found)
        for place, label in enumerate(shown.labels):
            color = colors[label % len(colors)]
            mask = None if shown.masks is None else shown.masks[place]
            _object(axes, shown.boxes[place], color, mask, shown.scores[place])

    return paint


def errors(pixels: np.ndarray, found: Found, wanted: Found) -> Paint:
    """What is right (green), wrong (red) and missed (yellow, dashed); of pixels those of another class, in red."""

    def paint(axes: Axes) -> None:
        axes.imshow(_gray(pixels))
        if found.pixels is not None and wanted.pixels is not None:
            off = (found.pixels != wanted.pixels) & (wanted.pixels != _IGNORED)
            axes.imshow(np.ma.masked_equal(off, False), cmap="autumn", alpha=0.6, vmin=1, vmax=2)
        shown = clear(found)
        hits, missed = matched(shown, wanted)
        for place, hit in enumerate(hits):
            mask = None if shown.masks is None else shown.masks[place]
            _object(axes, shown.boxes[place], RIGHT if hit else WRONG, mask, 1.0)
        for box in wanted.boxes[missed]:
            _object(axes, box, MISSED, None, 1.0, "--")

    return paint


def clear(found: Found) -> Found:
    """The detections worth drawing: of those that overlap the best, whatever their classes; annotations all stay."""
    kept: list[int] = []
    for place in np.argsort(-found.scores, kind="stable"):
        certain = found.scores[place] == 1
        if found.scores[place] >= _LEAST and (
            certain or not (_iou(found.boxes[place], found.boxes[kept]) >= _OVERLAP).any()
        ):
            kept.append(int(place))
    return found.of(np.array(kept, int))


def matched(found: Found, wanted: Found) -> tuple[np.ndarray, np.ndarray]:
    """Which detections have found an object, and which objects are missed.

    The best scores choose first; a detection takes the free object of its class with the largest IoU, 0.5 at least.
    """
    free, hits = np.ones(len(wanted.labels), bool), np.zeros(len(found.labels), bool)
    for place in np.argsort(-found.scores, kind="stable"):
        ious = _iou(found.boxes[place], wanted.boxes) * (free & (wanted.labels == found.labels[place]))
        if len(ious) and ious.max() >= _OVERLAP:
            hits[place], free[ious.argmax()] = True, False
    return hits, free


def class_colors(count: int) -> list[Rgb]:
    """A color for each class, as on the sheets of data sets."""
    return [(r / 255, g / 255, b / 255) for r, g, b in (color_of(i) for i in range(max(count, 1)))]


def legend(figure: Figure, names: Sequence[str], colors: Sequence[Rgb]) -> None:
    """Names behind squares of their colors, below the figure; none where there are too many."""
    if 0 < len(names) <= _MOST_IN_LEGEND:
        keys = [Patch(color=colors[i], label=shown_names(names, i)) for i in range(len(names))]
        figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 6), frameon=False, fontsize=9)


def _object(axes: Axes, box: np.ndarray, color: Rgb, mask: np.ndarray | None, score: float, line: str = "-") -> None:
    x1, y1, x2, y2 = box
    if mask is not None and mask.any():
        axes.imshow(np.where(mask[..., None], (*color, 0.45), 0.0))
    frame = Rectangle(
        (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.5, linestyle=line
    )
    frame.set_path_effects(_HALO)
    axes.add_patch(frame)
    if score < 1:
        shade = {"facecolor": "black", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}
        # Over the box, or inside where the picture ends or begins there.
        place = "bottom" if y1 >= 0.06 * abs(np.diff(axes.get_ylim())[0]) else "top"
        axes.text(
            max(x1, 0), max(y1, 0), f"{100 * score:.0f}", fontsize=6, color="white", va=place, clip_on=True, bbox=shade
        )


def _painted(pixels: np.ndarray, colors: Sequence[Rgb]) -> np.ndarray:
    table = np.zeros((_IGNORED + 1, 3))
    table[: len(colors)] = colors[: _IGNORED + 1]
    return table[pixels.astype(int)]


def _gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels.astype(float).mean(2, keepdims=True), 3, 2) / 255


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    overlap = (high - low).clip(min=0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return overlap / np.maximum(areas - overlap, 1e-12)
