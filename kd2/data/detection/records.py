"""Detection data sets as plain records, checked before training.

A record is a dict in Detectron2's standard format: ``file_name``, ``height``, ``width``, ``image_id`` and
``annotations``, each with ``bbox`` (x, y, width, height in pixels), ``category_id`` (0-based, in the order of
``classes``), ``iscrowd`` (1: an ignored region), ``area`` in pixels and, where a usable one is there, ``segmentation``
(see ``kd2.data.detection.masks``). Training and evaluation stand on these alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd2.data.classes import aligned, selection
from kd2.data.detection.coco import read_coco
from kd2.data.detection.objects import Records
from kd2.data.detection.voc import read_voc
from kd2.data.root import existing
from kd2.distill import ConfigError, nearest

BUILTIN = {
    f"coco_2017_{split}": {"JSON": f"coco/annotations/instances_{split}2017.json", "IMAGES": f"coco/{split}2017"}
    for split in ("train", "val")
}


def load(name: str, custom: Mapping[str, Mapping[str, Any]], key: str = "DATASETS") -> Records:
    """The data set ``name``: one of ``DATASETS.CUSTOM``, otherwise a built-in one. Reads the header of every picture.

    Raises:
        ConfigError: an unknown name or an entry without the right keys.
        DataError: a missing file or folder; a picture of another size; see ``read_coco`` and ``read_voc``.
    """
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
