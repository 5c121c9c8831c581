"""Data sets for semantic segmentation as plain records, checked before training.

A record holds ``file_name``, ``sem_seg_file_name`` (absent when the image has no label), ``height``, ``width``,
``image_id``, ``dataset`` (the name of its data set) and empty ``annotations``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kd2.data.classes import aligned, common
from kd2.data.findings import Findings
from kd2.data.images import note_orientation, read_header, refuse_deep
from kd2.data.root import existing
from kd2.data.segmentation.class_names import Color
from kd2.data.segmentation.folders import read_folders
from kd2.data.segmentation.labels import Labels, label_size, size_text
from kd2.data.segmentation.layouts import LAYOUTS, Layout, stems_of
from kd2.distill import IGNORE_LABEL, ConfigError, DataError, nearest

# Detectron2's names.
BUILTIN = {
    f"cityscapes_fine_sem_seg_{split}": {"CITYSCAPES": "cityscapes", "SPLIT": split} for split in ("train", "val")
} | {
    f"ade20k_sem_seg_{split}": {"ADE20K": "ADEChallengeData2016", "SPLIT": folder}
    for split, folder in (("train", "training"), ("val", "validation"))
}

# Label files that are read when a data set is loaded, to find classes that do not occur.
_SAMPLE = 32
_FORMS = f"IMAGES, LABELS and CLASSES; one of {', '.join(LAYOUTS)} with SPLIT; or UNLABELED"


@dataclass(frozen=True)
class SemanticRecords:
    """A data set: its name, classes in order, records, the folder it came from, and how its labels are read.

    Attributes:
        labels: reads a label file, ``labels.read(path)``, or that of a record, ``labels.of(record)``, as uint8 (H, W)
            classes with 255 for ignore.
        findings: what the reader has to say of the files.
        colors: red, green and blue of the classes, where the data set has any.
        pixel_range: see ``kd2.data.images.read_image``.
    """

    name: str
    classes: tuple[str, ...]
    records: list[dict]
    source: str
    labels: Labels
    findings: Findings
    colors: tuple[Color, ...] = ()
    pixel_range: Sequence[float] = ()


def load_semantic(
    name: str,
    custom: Mapping[str, Mapping[str, Any]],
    key: str = "DATASETS",
    pixel_range: Sequence[float] = (),
) -> SemanticRecords:
    """The data set ``name``: one of ``DATASETS.CUSTOM``, otherwise a built-in one. The head of every file is read.

    Args:
        pixel_range: ``INPUT.PIXEL_RANGE``, see ``kd2.data.images.read_image``.

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
        return _unlabeled(name, existing(name, entry, "UNLABELED"), pixel_range)
    layout = _layout(name, entry, where) or read_folders(name, entry, where)
    if layout is None:
        raise ConfigError(f"{where} has the keys {sorted(entry)}, expected {_FORMS}")
    findings = Findings(layout.images)
    records = _numbered(_record(name, image, label, findings, pixel_range) for image, label in layout.pairs(findings))
    data = SemanticRecords(
        name, layout.classes, records, layout.images, layout.reader, findings, layout.colors, pixel_range
    )
    _look_for_classes(data)
    return data


def of_one_run(sets: Sequence[SemanticRecords], classes: Sequence[str] = ()) -> list[SemanticRecords]:
    """Data sets with one list of classes, those without labels as they are.

    Args:
        classes: those of the run; empty: the longest list of the sets (``kd2.data.classes.common``).

    Raises:
        DataError: names that are not among those of the run.
    """
    named = [(data.source, data.classes) for data in sets if data.classes]
    wanted = tuple(classes) or (common(named) if named else ())
    return [_with_classes(data, wanted) if data.classes else data for data in sets]


def _with_classes(data: SemanticRecords, wanted: tuple[str, ...]) -> SemanticRecords:
    places = aligned(data.classes, wanted, data.source)
    if places == list(range(len(wanted))):
        return data
    own = dict(zip(places, data.colors))
    colors = tuple(own[place] for place in range(len(wanted))) if len(own) == len(wanted) else ()
    return replace(data, classes=wanted, labels=data.labels.renumbered(places), colors=colors)


def _look_for_classes(data: SemanticRecords) -> None:
    """Read some label files, evenly spread, and note the missing classes where they show half of them or fewer.

    Masks of 0 and 255 read with the default keys are such a case: the object is ignored.
    """
    sample = data.records[:: max(len(data.records) // _SAMPLE, 1)][:_SAMPLE]
    counts = [np.bincount(data.labels.of(record).reshape(-1), minlength=IGNORE_LABEL + 1) for record in sample]
    pixels = np.sum(counts, axis=0)
    absent = [name for name, count in zip(data.classes, pixels) if not count]
    looked = f"{len(sample)} of {len(data.records)} label files"
    if len(absent) == len(data.classes) and len(sample) == len(data.records):
        raise DataError(f"{data.source}: no pixel of its label files has a class; {_ignored(data.labels, pixels)}")
    if 2 * len(absent) >= len(data.classes):
        what = f"class does not occur in {looked} that were looked at; {_ignored(data.labels, pixels)}"
        for name in absent:
            data.findings.noted(what, name)


def _ignored(labels: Labels, pixels: np.ndarray) -> str:
    text = f"{pixels[IGNORE_LABEL] / pixels.sum():.0%} of their pixels are ignored"
    values = f" (value {labels.ignored_text()})" if labels.ignored else ""
    return f"{text}{values}, MAP and IGNORE say what values mean"


def _layout(name: str, entry: Mapping[str, Any], where: str) -> Layout | None:
    for kind, (layout, more) in LAYOUTS.items():
        if {kind, "SPLIT"} <= set(entry) <= {kind, "SPLIT"} | more:
            for key, value in entry.items():
                if not isinstance(value, str):
                    raise ConfigError(f"{where}.{key} is {value!r}, expected a text")
            options = {option.lower(): entry[option] for option in more & set(entry)}
            return layout(existing(name, entry, kind), entry["SPLIT"], **options)
    return None


def _unlabeled(name: str, folder: str, pixel_range: Sequence[float]) -> SemanticRecords:
    findings = Findings(folder)
    images = stems_of(folder, "", findings).values()
    records = _numbered(_record(name, image, "", findings, pixel_range) for image in images)
    if not records:
        raise DataError(f"{folder}: the data set has no images")
    return SemanticRecords(name, (), records, folder, Labels({}), findings, (), pixel_range)


def _record(name: str, image: str, label: str, findings: Findings, pixel_range: Sequence[float]) -> dict[str, Any]:
    header = read_header(image)
    refuse_deep(image, header.depth, pixel_range)
    height, width = header.size
    record = {"file_name": image, "height": height, "width": width, "dataset": name, "annotations": []}
    if not label:
        return record
    size = label_size(label)
    if size != header.size:
        turned = f", and before its EXIF orientation ({header.orientation}) brings it upright the label's size"
        raise DataError(size_text(label, size, image, header.size) + turned * (size == header.stored))
    note_orientation(image, header, findings)
    return record | {"sem_seg_file_name": label}


def _numbered(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"image_id": number, **record} for number, record in enumerate(records)]
