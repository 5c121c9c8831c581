"""What every reader of a data set returns, and what it checks on the way."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd2.data.findings import Findings
from kd2.distill import DataError

# Annotation tools round: a box may pass the border by this much and is cut to the image.
_SLACK = 1.0


@dataclass(frozen=True)
class Records:
    """A data set: its name, classes in order, records, and the file it came from.

    ``category_ids`` are the file's own numbers of the classes; Pascal VOC has none.
    """

    name: str
    classes: tuple[str, ...]
    records: list[dict]
    source: str
    category_ids: tuple[int, ...] = ()
    findings: Findings = dataclasses.field(default_factory=lambda: Findings(""))


def field(entry: Mapping[str, Any], key: str, where: str) -> Any:
    """``entry[key]``; raises DataError naming ``where`` when it is not there."""
    if not isinstance(entry, Mapping) or key not in entry:
        raise DataError(f"{where} has no {key!r}")
    return entry[key]


def box_inside(box: list[float], record: dict, where: str) -> list[float]:
    """``box`` (x, y, width, height) cut to the record's image; raises DataError when it leaves it or has no area."""
    try:
        x, y, w, h = map(float, box)
    except (TypeError, ValueError):
        raise DataError(f"{where}: box {box} is not four numbers (x, y, width, height)") from None
    width, height = record["width"], record["height"]
    if x < -_SLACK or y < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
        raise DataError(
            f"{where}: box {box} (x, y, width, height) leaves the image {record['file_name']} "
            f"of {width} x {height} pixels"
        )
    left, top = max(x, 0.0), max(y, 0.0)
    w, h = min(x + w, width) - left, min(y + h, height) - top
    if not (w > 0 and h > 0):
        raise DataError(f"{where}: box {box} (x, y, width, height) has no area in {record['file_name']}")
    return [left, top, w, h]


def nonempty(data: Records) -> Records:
    """``data``; raises DataError when it has no images or no annotations."""
    if not data.records:
        raise DataError(f"{data.source}: the data set has no images")
    if not any(record["annotations"] for record in data.records):
        raise DataError(f"{data.source}: no image has annotations")
    return data
