"""Detection data sets as plain records, checked before training.

A record is a dict in Detectron2's standard format: ``file_name``, ``height``, ``width``, ``image_id`` and
``annotations``, each with ``bbox`` (x, y, width, height in pixels), ``category_id`` (0-based, in the order of
``classes``), ``iscrowd`` (1: an ignored region), ``area`` in pixels and, where a usable one is there, ``segmentation``
(see ``kd2.data.detection.masks``). Training and evaluation stand on these alone.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd2.data.classes import aligned, common, selection
from kd2.data.detection.coco import read_coco
from kd2.data.detection.objects import Records
from kd2.data.detection.voc import read_voc
from kd2.data.images import refuse_deep
from kd2.data.root import existing
from kd2.distill import ConfigError, DataError, nearest

BUILTIN = {
    f"coco_2017_{split}": {"JSON": f"coco/annotations/instances_{split}2017.json", "IMAGES": f"coco/{split}2017"}
    for split in ("train", "val")
}


def load(
    name: str,
    custom: Mapping[str, Mapping[str, Any]],
    key: str = "DATASETS",
    pixel_range: Sequence[float] = (),
) -> Records:
    """The data set ``name``: one of ``DATASETS.CUSTOM``, otherwise a built-in one. Reads the header of every picture.

    Args:
        pixel_range: ``INPUT.PIXEL_RANGE``, see ``kd2.data.images.read_image``.

    Raises:
        ConfigError: an unknown name or an entry without the right keys.
        DataError: a missing file or folder; a picture of another size, or of more than 8 bits without a range; see
            ``read_coco`` and ``read_voc``.
    """
    data = _read(name, custom, key)
    for record in data.records:
        refuse_deep(record["file_name"], record.pop("depth", ""), pixel_range)
    return replace(data, pixel_range=pixel_range)


def _read(name: str, custom: Mapping[str, Mapping[str, Any]], key: str) -> Records:
    known = BUILTIN | dict(custom)
    if name not in known:
        raise ConfigError(f"{key}: no data set {name!r} in DATASETS.CUSTOM or built in; {nearest(name, known)}")
    entry, where = known[name], f"DATASETS.CUSTOM.{name}"
    expected = "JSON and IMAGES, or VOC and SPLIT, as texts"
    if not isinstance(entry, Mapping) or not all(isinstance(x, str) for k, x in entry.items() if k != "CLASSES"):
        raise ConfigError(f"{where} is {entry!r}, expected {expected}")
    classes = selection(entry["CLASSES"], f"{where}.CLASSES") if "CLASSES" in entry else None
    if set(entry) - {"CLASSES"} == {"JSON", "IMAGES"}:
        return read_coco(name, existing(name, entry, "JSON"), existing(name, entry, "IMAGES"), classes)
    if set(entry) - {"CLASSES"} == {"VOC", "SPLIT"}:
        return read_voc(name, existing(name, entry, "VOC"), entry["SPLIT"], classes)
    raise ConfigError(f"{where} has the keys {sorted(entry)}, expected {expected}, and perhaps CLASSES")


def of_one_run(sets: Sequence[Records], classes: Sequence[str] = ()) -> list[Records]:
    """Data sets with one list of classes: ``classes``, or the longest of their own (``kd2.data.classes.common``).

    Raises:
        DataError: names that are not among those of the run.
    """
    wanted = classes or common((data.source, data.classes) for data in sets)
    return [with_classes(data, wanted) for data in sets]


def check_numbers(sets: Sequence[Records]) -> None:
    """Raises DataError when two files exchange the numbers of their classes: nothing tells which of them, or of their
    names, is wrong. Files that count differently, such as from 0 and from 1, are none of this.
    """
    first: dict[tuple[frozenset, frozenset], Records] = {}
    for data in sets:
        numbers = data.category_ids
        known = first.setdefault((frozenset(numbers), frozenset(numbers.values())), data)
        for name, number in numbers.items():
            if known.category_ids[name] != number:
                raise DataError(
                    f"{data.source}: category {number} is {name!r}, in {known.source} that is "
                    f"{known.category_ids[name]}; if the names are right, DATASETS.CUSTOM.{data.name}.CLASSES: "
                    f"[{', '.join(known.classes)}] says so"
                )


def tell_without_masks(data: Records) -> None:
    """Note the objects without a usable mask in the findings of a data set that a model of masks reads."""
    for record in data.records:
        for annotation in record["annotations"]:
            if "segmentation" not in annotation and not annotation["iscrowd"]:
                what = "object without a usable mask, left out of training and of the score of masks"
                data.findings.dropped(what, os.path.basename(record["file_name"]))


def with_classes(data: Records, classes: Sequence[str]) -> Records:
    """``data`` with the classes of a run in their order; raises DataError for a class that the run does not have."""
    places = aligned(data.classes, classes, data.source)
    if list(places) == list(range(len(places))):
        return replace(data, classes=tuple(classes))
    records = [
        record | {"annotations": [a | {"category_id": places[a["category_id"]]} for a in record["annotations"]]}
        for record in data.records
    ]
    return replace(data, classes=tuple(classes), records=records)
