"""The ``annotations`` of a COCO file as one table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd2.data.classes import shown
from kd2.data.detection.masks import checked_mask, mask_box
from kd2.data.detection.numbers import flag, numbers
from kd2.data.detection.objects import Objects
from kd2.data.findings import Findings
from kd2.distill import DataError

# No image has a longer side; a mask without a box is held against it.
_LARGEST = 1 << 16


def read_objects(
    annotations: list[dict], records: dict[Any, int], categories: dict[Any, int], findings: Findings
) -> Objects:
    """The table of all objects of images and categories that are there."""
    of_image = _places(annotations, "image_id", records, findings)
    of_class = _places(annotations, "category_id", categories, findings)
    if None in of_class:
        i = of_class.index(None)
        raise DataError(
            f"{findings.source}: {_called(annotations[i], i)}: category_id {annotations[i]['category_id']!r} is not "
            f"among the categories {shown(list(map(str, categories)))}"
        )
    if None in of_image or -1 in of_class:
        rows = _used(annotations, of_image, of_class, findings)
        annotations = [annotations[i] for i in rows]
        of_image, of_class = ([column[i] for i in rows] for column in (of_image, of_class))
    ids = [a.get("id") for a in annotations]
    _tell_ids(ids, findings)
    crowd = _flags(annotations, "iscrowd", findings)
    ignored = _flags(annotations, "ignore", findings)
    for i in np.flatnonzero(ignored).tolist():
        crowd[i] = 1
        findings.noted("ignore is 1: an ignored region, as crowd", _called(annotations[i], i))
    return Objects(
        of_image,
        of_class,
        _boxes(annotations, findings),
        crowd,
        [a.get("area") for a in annotations],
        [a.get("segmentation") for a in annotations],
        lambda i: _called({"id": ids[i]}, i),
    )


def _places(annotations: list[dict], key: str, known: dict[Any, int], findings: Findings) -> list[Any]:
    """For each annotation what is ``known`` of the number under ``key``; None for a number that is not."""
    try:
        places = [known.get(a.get(key)) for a in annotations]
    except TypeError:  # a number that is a list or a group
        places = [known.get(a.get(key)) if is_id(a.get(key)) else None for a in annotations]
    if None in places:
        texts = {str(number): place for number, place in known.items()}
        for i, place in enumerate(places):
            if place is None:
                where = _called(annotations[i], i)
                places[i] = texts.get(str(entry_field(annotations[i], key, f"{findings.source}: {where}")).strip())
                if places[i] is not None:
                    findings.repaired(f"{key} is a text where the id is a number, or the other way round", where)
    return places


def _used(annotations: list[dict], of_image: list[Any], of_class: list[Any], findings: Findings) -> list[int]:
    """Rows of the annotations whose image is listed and whose category is chosen."""
    rows = []
    for i, (image, index) in enumerate(zip(of_image, of_class)):
        if image is None:
            findings.dropped("annotation of an image that is not listed", _called(annotations[i], i))
        elif index == -1:
            findings.dropped("object of a category that CLASSES does not name", _called(annotations[i], i))
        else:
            rows.append(i)
    lost = of_image.count(None)
    if lost > len(annotations) / 2:
        raise DataError(
            f"{findings.source}: {lost} of {len(annotations)} annotations are of images that are not listed, the first "
            f"of image {annotations[of_image.index(None)]['image_id']!r}"
        )
    return rows


def _tell_ids(ids: list[Any], findings: Findings) -> None:
    """Annotations are numbered anew in any case; those without a number of their own are named."""
    keys = [number if is_id(number) else str(number) for number in ids]
    if None in ids or len(set(keys)) < len(keys):
        seen: set[Any] = {None, "None"}
        for i, key in enumerate(keys):
            if key in seen:
                findings.repaired("annotation without an id of its own, numbered anew", _called({"id": ids[i]}, i))
            seen.add(key)


def _flags(annotations: list[dict], key: str, findings: Findings) -> list[int]:
    values = [a.get(key, 0) for a in annotations]
    try:
        if set(values) <= {0, 1}:
            return list(map(int, values))
    except TypeError:
        pass
    found = [flag(value) for value in values]
    if None in found:
        i = found.index(None)
        raise DataError(f"{findings.source}: {_called(annotations[i], i)}: {key} is {values[i]!r}, expected 0 or 1")
    for i, value in enumerate(values):
        if value is not None and value not in (0, 1):
            findings.repaired(f"{key} is a text or no number", _called(annotations[i], i))
    return [int(bool(value)) for value in found]


def _boxes(annotations: list[dict], findings: Findings) -> np.ndarray:
    """All boxes, (M, 4); NaN where one is not known."""
    boxes = [a.get("bbox") for a in annotations]
    try:
        found = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0)
    if found.shape != (len(boxes), 4):
        rows = [
            _box(annotation, f"{findings.source}: {_called(annotation, i)}") for i, annotation in enumerate(annotations)
        ]
        found = np.array(rows, dtype=np.float64).reshape(-1, 4)
    for i in np.flatnonzero(~np.isfinite(found).all(1)).tolist():
        mask = annotations[i].get("segmentation")
        usable = checked_mask(mask, *_extent(mask)) if mask else None
        if usable:
            found[i] = mask_box(usable)
            findings.repaired("box is missing, made from the mask", _called(annotations[i], i))
    return found


def _box(annotation: dict, where: str) -> list[float]:
    """The four numbers of a box; NaN where there is none, but a mask."""
    if not annotation.get("bbox") and annotation.get("segmentation"):
        return [math.nan] * 4
    box = entry_field(annotation, "bbox", where)
    values = numbers(box).tolist() if isinstance(box, list) else []
    if len(values) != 4 or any(v != v and isinstance(x, (str, list, dict)) for x, v in zip(box, values)):
        raise DataError(f"{where}: box {box} is not four numbers (x, y, width, height)")
    return values


def _extent(mask: Any) -> tuple[int, int]:
    """A size that a mask without a box is held against."""
    try:
        return (int(mask["size"][0]), int(mask["size"][1])) if isinstance(mask, dict) else (_LARGEST, _LARGEST)
    except (LookupError, TypeError, ValueError, OverflowError):
        return _LARGEST, _LARGEST


def entry_field(entry: Mapping[str, Any], key: str, where: str) -> Any:
    """``entry[key]``; raises DataError naming ``where`` when it is not there or, of an id, can be none."""
    value = entry.get(key)
    if value is None or (key.endswith("id") and not is_id(value)):
        raise DataError(f"{where} has no {key!r}")
    return value


def is_id(value: Any) -> bool:
    """Whether a value can be the number of an entry."""
    return isinstance(value, (int, float, str))


def _called(annotation: Mapping[str, Any], place: int) -> str:
    number = annotation.get("id")
    return f"annotation at place {place}" if number is None else f"annotation {number}"
