"""What a data set holds, counted: the rows of one table."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd2.data.classification.image_dataset import ImageDataset
from kd2.data.detection.records import Records
from kd2.data.findings import Findings
from kd2.data.images import read_header
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.distill import IGNORE_LABEL

Row = tuple[str, int, str]

# COCO's bounds of small and medium objects, in pixels.
_SMALL, _MEDIUM = 32**2, 96**2
_MOST_CLASSES = 100
# Decoding and waiting for the disk both leave Python's lock.
_THREADS = 8


@dataclass(frozen=True)
class Survey:
    """What was counted in one data set.

    Attributes:
        rows: what, how many, and more about it.
        refused: why it cannot be used, a text a kind; empty when it can.
    """

    rows: list[Row]
    refused: list[str]


def survey(data: Records | SemanticRecords | ImageDataset) -> Survey:
    """Count images, objects and classes of a data set; read the headers of all pictures, and all label files."""
    if isinstance(data, Records):
        return _detection(data)
    return _segmentation(data) if isinstance(data, SemanticRecords) else _classification(data)


def _detection(data: Records) -> Survey:
    refused = Findings(data.source)
    for record, found in zip(data.records, _each(lambda r: read_header(r["file_name"]).size, data.records)):
        if isinstance(found, str):
            refused.refused("picture cannot be read", f"{record['file_name']}: {found}")
        elif found != (record["height"], record["width"]):
            refused.refused("picture has another size than its record", record["file_name"])
    objects = [a for record in data.records for a in record["annotations"]]
    areas = np.array([a.get("area") or a["bbox"][2] * a["bbox"][3] for a in objects])
    small, large = int((areas < _SMALL).sum()), int((areas > _MEDIUM).sum())
    crowd, masks = sum(bool(a["iscrowd"]) for a in objects), sum(bool(a.get("segmentation")) for a in objects)
    sizes = f"{small} small, {len(objects) - small - large} medium, {large} large; {crowd} crowd, {masks} with a mask"
    count = Counter(a["category_id"] for a in objects)
    shown = Counter(i for record in data.records for i in {a["category_id"] for a in record["annotations"]})
    classes = [(f"class {name}", count[i], f"in {shown[i]} images") for i, name in enumerate(data.classes)]
    empty = sum(not record["annotations"] for record in data.records)
    rows = [*_images(data.records, f"{empty} without objects"), ("objects", len(objects), sizes), *_classes(classes)]
    return _survey(rows, data.findings, refused)


def _segmentation(data: SemanticRecords) -> Survey:
    refused, labeled = Findings(data.source), [r for r in data.records if "sem_seg_file_name" in r]
    pixels, images = np.zeros(IGNORE_LABEL + 1), np.zeros(IGNORE_LABEL + 1, dtype=int)
    for found in _each(lambda r: np.bincount(data.labels.of(r).reshape(-1), minlength=IGNORE_LABEL + 1), labeled):
        if isinstance(found, str):
            refused.refused("label file cannot be used", found)
        else:
            pixels += found
            images += found > 0
    rows = _images(data.records, f"{len(data.records) - len(labeled)} without labels")
    if labeled:
        shares = 100 * pixels / max(pixels[:IGNORE_LABEL].sum(), 1)
        text = "images show it, {:.4g} % of the labeled pixels"
        classes = [(f"class {c}", int(images[i]), text.format(shares[i])) for i, c in enumerate(data.classes)]
        ignored = f"images have such pixels, {100 * pixels[IGNORE_LABEL] / max(pixels.sum(), 1):.4g} % of all"
        rows += [*_classes(classes), ("ignored", int(images[IGNORE_LABEL]), ignored)]
    return _survey(rows, data.findings, refused)


def _classification(data: ImageDataset) -> Survey:
    refused, sizes = Findings(data.source), []
    for found in map(_told(data.size), range(len(data))):  # an open archive is read by one thread
        if isinstance(found, str):
            refused.refused("image cannot be read", found)
        else:
            sizes.append({"height": found[0], "width": found[1]})
    counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
    classes = [(f"class {name}", count, "") for name, count in zip(data.classes, counts)]
    return _survey([*_images(sizes, ""), *_classes(classes)], Findings(data.source), refused)


def _survey(rows: list[Row], findings: Findings, refused: Findings) -> Survey:
    told = [*findings.rows(), *refused.rows()]
    rows = rows + [(f"{verdict}: {what}", count, places) for verdict, what, count, places in told]
    return Survey(rows, [f"{refused.source}: {what} ({count}: {places})" for _, what, count, places in refused.rows()])


def _images(records: Sequence[dict], more: str) -> list[Row]:
    """The rows of images and of their sizes, which are ordered by the number of pixels."""
    rows = [("images", len(records), more)]
    if records:
        ordered = sorted((r["height"] * r["width"], r["width"], r["height"]) for r in records)
        marks = zip(("smallest", "median", "largest"), (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
        text = ", ".join(f"{mark} {width} x {height}" for mark, (_, width, height) in marks)
        rows.append(("different sizes (width x height)", len(set(ordered)), text))
    return rows


def _classes(rows: list[Row]) -> list[Row]:
    """Of very many classes the first ones, and the others together."""
    if len(rows) <= _MOST_CLASSES:
        return rows
    rest = [count for _, count, _ in rows[_MOST_CLASSES:]]
    return [*rows[:_MOST_CLASSES], (f"{len(rest)} more classes", sum(rest), f"{min(rest)} to {max(rest)} each")]


def _each(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """What ``work`` gives of every item, in their order, or the text of its error."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_told(work), items)


def _told(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def told(item: Any) -> Any:
        try:
            return work(item)
        except (OSError, SyntaxError, ValueError) as error:  # DataError among them
            return str(error)

    return told
