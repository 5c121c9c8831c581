"""Detection data sets as plain records, checked before training.

A record is a dict in Detectron2's standard format: ``file_name``, ``height``, ``width``, ``image_id`` and
``annotations``, each with ``bbox`` (x, y, width, height in pixels), ``category_id`` (0-based, in the order of
``classes``), ``iscrowd`` and, when the file has them, ``segmentation`` (COCO polygons or run-length code) and ``area``.
"""

from collections.abc import Mapping

from kd2.data.detection.checks import Records
from kd2.data.detection.coco import read_coco
from kd2.data.detection.voc import read_voc
from kd2.data.root import existing
from kd2.distill import ConfigError, nearest

BUILTIN = {
    f"coco_2017_{split}": {"JSON": f"coco/annotations/instances_{split}2017.json", "IMAGES": f"coco/{split}2017"}
    for split in ("train", "val")
}


def load(name: str, custom: Mapping[str, Mapping[str, str]], key: str = "DATASETS") -> Records:
    """The data set ``name``: one of ``DATASETS.CUSTOM``, otherwise a built-in one.

    Raises:
        ConfigError: an unknown name or an entry without the right keys.
        DataError: a missing file or folder; see ``read_coco`` and ``read_voc``.
    """
    known = BUILTIN | dict(custom)
    if name not in known:
        raise ConfigError(f"{key}: no data set {name!r} in DATASETS.CUSTOM or built in; {nearest(name, known)}")
    entry = known[name]
    if not isinstance(entry, Mapping) or not all(isinstance(value, str) for value in entry.values()):
        raise ConfigError(f"DATASETS.CUSTOM.{name} is {entry!r}, expected JSON and IMAGES, or VOC and SPLIT, as texts")
    if set(entry) == {"JSON", "IMAGES"}:
        return read_coco(name, existing(name, entry, "JSON"), existing(name, entry, "IMAGES"))
    if set(entry) == {"VOC", "SPLIT"}:
        return read_voc(name, existing(name, entry, "VOC"), entry["SPLIT"])
    raise ConfigError(
        f"DATASETS.CUSTOM.{name} has the keys {sorted(entry)}, expected JSON and IMAGES, or VOC and SPLIT"
    )
