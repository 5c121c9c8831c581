"""Pictures of a data set with what is annotated on them: twelve on one sheet."""

import colorsys
import io
import os
import re
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kd2.data.classification.image_dataset import ImageDataset
from kd2.data.detection.records import Records
from kd2.data.images import read_image
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.distill import IGNORE_LABEL, ConfigError
from kd2.runs.folder import check_writable

DataSet = Records | SemanticRecords | ImageDataset
# A picture with its annotations, and the words below it as (text, color): its file, then classes.
Drawn = tuple[Image.Image, list[tuple[str, "Color"]]]
Color = tuple[int, int, int]

_COUNT, _COLUMNS = 12, 4
_CELL, _MARGIN, _LINE = 400, 8, 15  # pixels
_LONGEST = 60  # letters of a word below a picture
_BLACK: Color = (0, 0, 0)
_WHITE: Color = (255, 255, 255)


def sheet_path(name: str, folder: str) -> str:
    """The file for the sheet of data set ``name``; raises ConfigError when it is there or cannot be written."""
    path = os.path.join(folder, re.sub(r"[^\w.-]", "_", name) + ".png")
    if os.path.lexists(path):
        raise ConfigError(f"--pictures: {path} exists, expected a folder without it")
    check_writable(folder, "--pictures")
    return path


def draw_sheet(data: DataSet, path: str) -> None:
    """Write twelve pictures, spread over the data set, with boxes, masks or classes of pixels and class names.

    Raises:
        DataError, OSError: a picture cannot be read, or the file not be written.
    """
    cells = [_cell(*annotated(data, index)) for index in _chosen(data)]
    rows = [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
    heights = [max(cell.height for cell in row) + _MARGIN for row in rows]
    sheet = Image.new("RGB", (_COLUMNS * (_CELL + _MARGIN) + _MARGIN, sum(heights) + _MARGIN), _WHITE)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_MARGIN + column * (_CELL + _MARGIN), _MARGIN + sum(heights[:number])))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    with open(path, "xb") as file:
        file.write(content.getvalue())


def annotated(data: DataSet, index: int) -> Drawn:
    """One picture, made to fit 400 x 400 pixels: larger ones reduced, small ones enlarged by a whole number."""
    if isinstance(data, ImageDataset):
        pixels = data.pixels(index).permute(1, 2, 0).numpy()
        return _fitted(pixels), [(data.names[index], _BLACK), (data.classes[data.labels[index]], _BLACK)]
    record = data.records[index]
    picture = _fitted(read_image(record["file_name"], data.pixel_range))
    name = (os.path.basename(record["file_name"]), _BLACK)
    if isinstance(data, Records):
        return _with_objects(picture, record, data.classes), [name, *_legend(data, _classes_of(record))]
    if "sem_seg_file_name" not in record:
        return picture, [name, ("no label", _BLACK)]
    labels = data.labels.of(record)
    found = [i for i in np.unique(labels).tolist() if i != IGNORE_LABEL]
    return _with_labels(picture, labels, _colors(data)), [name, *_legend(data, found)]


def _chosen(data: DataSet) -> list[int]:
    """Up to twelve indices, spread evenly; of boxes, pictures with some where there are enough."""
    indices = range(len(data)) if isinstance(data, ImageDataset) else range(len(data.records))
    shown = [i for i in indices if data.records[i]["annotations"]] if isinstance(data, Records) else list(indices)
    candidates = shown if len(shown) >= min(_COUNT, len(indices)) else list(indices)
    count = min(_COUNT, len(candidates))
    return [candidates[i * len(candidates) // count] for i in range(count)]


def _with_objects(picture: Image.Image, record: dict, classes: tuple[str, ...]) -> Image.Image:
    scale = picture.width / record["width"], picture.height / record["height"]
    for entry in record["annotations"]:
        if entry.get("segmentation"):
            picture = _tinted(picture, _mask(entry["segmentation"], record), color_of(entry["category_id"]))
    pen = ImageDraw.Draw(picture)
    for entry in record["annotations"]:
        x, y, w, h = entry["bbox"]
        color = color_of(entry["category_id"])
        left, top = round(x * scale[0]), round(y * scale[1])
        # The last pixel lies inside the box, which ends behind it.
        right, bottom = max(round((x + w) * scale[0]) - 1, left), max(round((y + h) * scale[1]) - 1, top)
        pen.rectangle((left, top, right, bottom), outline=color, width=1 if min(right - left, bottom - top) < 12 else 2)
        if entry["iscrowd"]:
            pen.line((left, top, right, bottom), fill=color)
    return picture


def _with_labels(picture: Image.Image, labels: np.ndarray, colors: list[Color]) -> Image.Image:
    """Classes of pixels (H, W) half over the picture; ignored pixels stay black."""
    table = np.zeros((IGNORE_LABEL + 1, 3), np.uint8)
    table[: len(colors)] = colors
    painted = Image.fromarray(table[labels]).resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(picture, painted, 0.5)


def _mask(code: list | dict, record: dict) -> np.ndarray:
    """The mask (H, W) of polygons or a run-length code."""
    from pycocotools import mask as coco_mask  # such data sets are trained with it

    size = record["height"], record["width"]
    if isinstance(code, list):
        code = coco_mask.merge(coco_mask.frPyObjects(code, *size))
    elif isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, *size)
    return coco_mask.decode(code)


def _tinted(picture: Image.Image, mask: np.ndarray, color: Color) -> Image.Image:
    inside = Image.fromarray(mask * 102).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", picture.size, color), picture, inside)


def color_of(index: int) -> Color:
    """A strong color for a class; neighbors differ in hue."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _colors(data: SemanticRecords) -> list[Color]:
    return list(data.colors) or [color_of(i) for i in range(len(data.classes))]


def _classes_of(record: dict) -> list[int]:
    return sorted({entry["category_id"] for entry in record["annotations"]})


def _legend(data: Records | SemanticRecords, found: Iterable[int]) -> list[tuple[str, Color]]:
    colors = _colors(data) if isinstance(data, SemanticRecords) else [color_of(i) for i in range(len(data.classes))]
    return [(data.classes[i], colors[i]) for i in found]


def _fitted(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    longer = max(picture.size)
    factor = _CELL // longer if longer <= _CELL else _CELL / longer
    size = tuple(max(round(side * factor), 1) for side in picture.size)
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR)


def _cell(picture: Image.Image, words: list[tuple[str, Color]]) -> Image.Image:
    """The picture over its words: the first has a line of its own, the others stand behind squares of their color."""
    font, places, x, y = ImageFont.load_default(12), [], 0, picture.height + 2
    words = [(" ".join(text.split())[:_LONGEST], color) for text, color in words]
    for number, (text, _) in enumerate(words):
        width = font.getlength(text) + 24
        if number == 1 or x + width > _CELL:
            x, y = 0, y + _LINE * (number > 0)
        places.append((x, y))
        x += width
    cell = Image.new("RGB", (_CELL, y + _LINE), _WHITE)
    cell.paste(picture)
    pen = ImageDraw.Draw(cell)
    for (x, y), (text, color) in zip(places, words):
        if color != _BLACK:
            pen.rectangle((x, y + 2, x + 9, y + 11), fill=color)
        pen.text((x + 13 * (color != _BLACK), y), text, fill=_BLACK, font=font)
    return cell
