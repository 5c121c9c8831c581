"""Data sets for semantic segmentation as plain records, checked before training.

A record holds ``file_name``, ``sem_seg_file_name`` (absent when the image has no label), ``height``, ``width``,
``image_id``, ``dataset`` (the name of its data set) and empty ``annotations``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kd2.data.findings import Findings
from kd2.data.images import image_size
from kd2.data.root import existing
from kd2.data.segmentation.class_names import Color
from kd2.data.segmentation.folders import read_folders
from kd2.data.segmentation.labels import Labels, size_text
from kd2.data.segmentation.layouts import LAYOUTS, Layout, stems_of
from kd2.distill import ConfigError, DataError, nearest

# Detectron2's names.
BUILTIN = {
    f"cityscapes_fine_sem_seg_{split}": {"CITYSCAPES": "cityscapes", "SPLIT": split} for split in ("train", "val")
} | {
    f"ade20k_sem_seg_{split}": {"ADE20K": "ADEChallengeData2016", "SPLIT": folder}
    for split, folder in (("train", "training"), ("val", "validation"))
}

_FORMS = f"IMAGES, LABELS and CLASSES; one of {', '.join(LAYOUTS)} with SPLIT; or UNLABELED"


@dataclass(frozen=True)
class SemanticRecords:
    """A data set: its name, classes in order, records, the folder it came from, and how its labels are read.

    Attributes:
        labels: reads a label file, ``labels.read(path)``, or that of a record, ``labels.of(record)``, as uint8 (H, W)
            classes with 255 for ignore.
        colors: red, green and blue of the classes, where the data set has any.
    """

    name: str
    classes: tuple[str, ...]
    records: list[dict]
    source: str
    labels: Labels
    colors: tuple[Color, ...] = ()
    findings: Findings = field(default_factory=lambda: Findings(""))


def load_semantic(name: str, custom: Mapping[str, Mapping[str, Any]], key: str = "DATASETS") -> SemanticRecords:
    """The data set ``name``: one of ``DATASETS.CUSTOM``, otherwise a built-in one.

    Raises:
        ConfigError: an unknown name or an entry without the right keys.
        DataError: a missing or unreadable file or folder, no images, a label of another size than its image.
    """
    known = BUILTIN | dict(custom)
    if name not in known:
        raise ConfigError(f"{key}: no data set {name!r} in DATASETS.CUSTOM or built in; {nearest(name, known)}")
    entry, where = known[name], f"DATASETS.CUSTOM.{name}"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r}, expected a group of keys: {_FORMS}")
    if set(entry) == {"UNLABELED"}:
        return _unlabeled(name, existing(name, entry, "UNLABELED"))
    layout = _layout(name, entry, where) or read_folders(name, entry, where)
    if layout is None:
        raise ConfigError(f"{where} has the keys {sorted(entry)}, expected {_FORMS}")
    records = [_record(name, i, image, label) for i, (image, label) in enumerate(layout.pairs())]
    return SemanticRecords(name, layout.classes, records, layout.images, layout.reader, layout.colors)


def _layout(name: str, entry: Mapping[str, Any], where: str) -> Layout | None:
    for kind, (layout, more) in LAYOUTS.items():
        if {kind, "SPLIT"} <= set(entry) <= {kind, "SPLIT"} | more:
            for key, value in entry.items():
                if not isinstance(value, str):
                    raise ConfigError(f"{where}.{key} is {value!r}, expected a text")
            options = {option.lower(): entry[option] for option in more & set(entry)}
            return layout(existing(name, entry, kind), entry["SPLIT"], **options)
    return None


def _unlabeled(name: str, folder: str) -> SemanticRecords:
    records = [_record(name, i, image) for i, image in enumerate(stems_of(folder, "").values())]
    if not records:
        raise DataError(f"{folder}: the data set has no images")
    return SemanticRecords(name, (), records, folder, Labels({}))


def _record(name: str, number: int, image: str, label: str = "") -> dict:
    height, width = _size(image, upright=True)
    record = {
        "file_name": image,
        "height": height,
        "width": width,
        "image_id": number,
        "dataset": name,
        "annotations": [],
    }
    if label:
        size = _size(label, upright=False)
        if size != (height, width):
            raise DataError(size_text(label, size, image, (height, width)))
        record["sem_seg_file_name"] = label
    return record


def _size(path: str, upright: bool) -> tuple[int, int]:
    """``image_size``; raises DataError naming the file when its header cannot be read."""
    try:
        return image_size(path, upright)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error
