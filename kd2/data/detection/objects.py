"""From a table of all objects of a data set to checked records: what every reader of boxes ends in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd2.data.detection.masks import checked_mask, mask_area, tell_mask
from kd2.data.detection.numbers import numbers
from kd2.data.findings import Findings
from kd2.distill import DataError

# Tools round: a box that passes the border by less, in pixels, is cut to the image without a word.
_ROUNDING = 0.05
# The format of the boxes is another one where more than this share of them is off, or more than the smaller share and
# one mistake explains all boxes.
_TOO_MANY, _SUSPICIOUS = 0.5, 0.1
# From this share of crowd on it is told: some tools mark every mask they write as a run-length code.
_MUCH_CROWD = 0.05


@dataclass(frozen=True)
class Records:
    """A data set: its name, classes in order, records, and the file it came from.

    Attributes:
        findings: what was repaired and left out.
        category_ids: the file's own numbers of the classes, where it has any and nobody chose classes.
        pixel_range: see ``kd2.data.images.read_image``.
    """

    name: str
    classes: tuple[str, ...]
    records: list[dict]
    source: str
    findings: Findings = field(default_factory=lambda: Findings(""))
    category_ids: Mapping[str, int] = field(default_factory=dict)
    pixel_range: Sequence[float] = ()


@dataclass
class Objects:
    """All objects of a data set, a column a property.

    Attributes:
        records: place of the record of each.
        classes: place of the class of each.
        boxes: (M, 4) x, y, width, height in pixels.
        crowd: 1 where an object is an ignored region.
        areas: in pixels, as the file has them; what is no positive number is made anew.
        masks: as the file has them.
        called: what to call the object at a place of the table, for findings and errors.
    """

    records: Sequence[int]
    classes: Sequence[int]
    boxes: np.ndarray
    crowd: list[int]
    areas: Sequence[Any]
    masks: list[Any]
    called: Callable[[int], str]


def add_objects(records: list[dict], objects: Objects, findings: Findings) -> None:
    """Check all objects and put them into the ``annotations`` of their records; ``objects.masks`` is used up.

    Raises:
        DataError: so many boxes are off that they must mean something else.
    """
    if not len(objects.boxes):
        findings.noted("no image has an object", findings.source)
        return
    boxes, keep, cut = _checked_boxes(records, objects, findings)
    areas = _checked_areas(objects, keep, findings)
    crowd = np.asarray(objects.crowd, dtype=bool) & keep
    if crowd.sum() > _MUCH_CROWD * len(crowd):
        _tell(findings.noted, "object is crowd or difficult: an ignored region, not trained on", crowd, objects)
    columns = zip(
        keep.tolist(), objects.records, boxes.tolist(), objects.classes, objects.crowd, areas.tolist(), cut.tolist()
    )
    for i, (kept, place, box, index, crowd, area, other) in enumerate(columns):
        if not kept:
            continue
        record, mask = records[place], objects.masks[i]
        objects.masks[i] = None
        usable = checked_mask(mask, record["height"], record["width"]) if mask else None
        if usable is not mask and mask:
            tell_mask(mask, usable, findings, objects.called(i))
        if not area > 0 or (other and not usable):
            area = (usable and mask_area(usable)) or box[2] * box[3]
        annotation = {"bbox": box, "category_id": index, "iscrowd": crowd, "area": area}
        if usable:
            annotation["segmentation"] = usable
        record["annotations"].append(annotation)


def _checked_boxes(records: list[dict], objects: Objects, findings: Findings) -> tuple[np.ndarray, ...]:
    """The boxes cut to their images; which have an area there; which changed."""
    sizes = np.array([(r["width"], r["height"]) for r in records], dtype=np.float64)[np.asarray(objects.records)]
    boxes = objects.boxes
    finite = np.isfinite(boxes).all(1)
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        left, right = np.clip(low, 0, sizes), np.clip(high, 0, sizes)
        solid = finite & (boxes[:, 2:] > 0).all(1)
        keep = solid & (right > left).all(1)
        beyond = np.maximum(left - low, high - right).max(1)
    left[~finite], right[~finite] = 0, sizes[~finite]
    cut, flat = keep & (beyond > _ROUNDING), finite & ~solid
    if flat.sum() > _TOO_MANY * len(boxes):
        raise DataError(
            f"{findings.source}: {flat.sum()} of {len(boxes)} boxes have no area, expected x, y, width, height in "
            "pixels"
        )
    _refuse_other_formats(boxes[solid], sizes[solid], beyond[solid] > 1, findings.source)
    _tell(findings.dropped, "box has no area", flat, objects)
    _tell(findings.dropped, "box lies outside its image", solid & ~keep, objects)
    _tell(findings.repaired, "box leaves its image, cut", cut, objects)
    _tell(findings.dropped, "box is not finite, the whole image is an ignored region of its class", ~finite, objects)
    for i in np.flatnonzero(~finite).tolist():
        objects.crowd[i] = 1
    return np.concatenate([left, right - left], 1), keep | ~finite, cut | ~finite


def _refuse_other_formats(boxes: np.ndarray, sizes: np.ndarray, off: np.ndarray, source: str) -> None:
    """Boxes with an area, and whether they leave their image by more than a pixel: how many may before all are meant
    otherwise."""
    (x, y, w, h), (width, height) = boxes.T, sizes.T
    mistakes = {
        "they look like x1, y1, x2, y2": (w > x) & (h > y) & (w <= width + 1) & (h <= height + 1),
        "width and height of the images look swapped": (x + w <= height + 1) & (y + h <= width + 1),
    }
    likely = next((f"; {text}" for text, explains in mistakes.items() if off.sum() > 1 and explains.all()), "")
    if len(boxes) > 1 and (np.abs(boxes) <= 1).all():
        off, likely = np.ones_like(off), "; they look like parts of the image, from 0 to 1"
    if off.sum() > len(off) * (_SUSPICIOUS if likely else _TOO_MANY):
        raise DataError(
            f"{source}: {off.sum()} of {len(off)} boxes are not x, y, width, height in pixels of their image{likely}"
        )


def _checked_areas(objects: Objects, keep: np.ndarray, findings: Findings) -> np.ndarray:
    """The areas; 0 where one has to be made."""
    areas = numbers(objects.areas)
    bad = ~(np.isfinite(areas) & (areas > 0))
    given = np.array([area is not None for area in objects.areas])
    _tell(findings.repaired, "area is no positive number, made anew", bad & given & keep, objects)
    areas[bad] = 0
    return areas


def _tell(tell: Callable[[str, str], None], what: str, where: np.ndarray, objects: Objects) -> None:
    for i in np.flatnonzero(where).tolist():
        tell(what, objects.called(i))
