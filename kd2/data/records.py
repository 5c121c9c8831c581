"""Detection data sets as plain records, read from COCO JSON or Pascal VOC folders and checked before training.

A record is a dict in Detectron2's standard format: ``file_name``, ``height``, ``width``, ``image_id`` and ``annotations``,
each with ``bbox`` (x, y, width, height in pixels), ``category_id`` (0-based, in the order of ``classes``), ``iscrowd`` and,
when the file has it, ``segmentation`` (COCO polygons or run-length code).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from kd2.core import ConfigError, DataError, nearest

BUILTIN = {
    f"coco_2017_{split}": {"JSON": f"coco/annotations/instances_{split}2017.json", "IMAGES": f"coco/{split}2017"}
    for split in ("train", "val")
}
# Annotation tools round: a box may pass the border by this much and is cut to the image.
_SLACK = 1.0


@dataclass(frozen=True)
class Records:
    """A data set: its name, classes in order, records, and the file it came from."""

    name: str
    classes: tuple[str, ...]
    records: list[dict]
    source: str


def data_root() -> str:
    """``$DETECTRON2_DATASETS``, as in Detectron2, or ``./datasets``."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def load(name: str, custom: Mapping[str, Mapping[str, str]], key: str = "DATASETS") -> Records:
    """The data set ``name``: one of ``DATASETS.CUSTOM``, otherwise a built-in one.

    Raises:
        ConfigError: an unknown name or an entry without the right keys.
        DataError: see ``read_coco`` and ``read_voc``.
    """
    known = BUILTIN | dict(custom)
    if name not in known:
        raise ConfigError(f"{key}: no data set {name!r} in DATASETS.CUSTOM or built in; {nearest(name, known)}")
    entry = dict(known[name])
    root = data_root()
    if set(entry) == {"JSON", "IMAGES"}:
        return read_coco(name, os.path.join(root, entry["JSON"]), os.path.join(root, entry["IMAGES"]))
    if set(entry) == {"VOC", "SPLIT"}:
        return read_voc(name, os.path.join(root, entry["VOC"]), entry["SPLIT"])
    raise ConfigError(f"DATASETS.CUSTOM.{name} has the keys {sorted(entry)}, expected JSON and IMAGES, or VOC and SPLIT")


def read_coco(name: str, json_file: str, image_folder: str) -> Records:
    """Records of a COCO instances file.

    Raises:
        DataError: a missing or malformed file, no images, no annotations, a missing image file, an unknown category or
            image, a box outside the image or without area; names the file and the annotation ids.
    """
    content = _read_json(json_file)
    categories = sorted(content["categories"], key=lambda c: c["id"])
    contiguous = {category["id"]: i for i, category in enumerate(categories)}
    present = _listing(image_folder)
    records = {}
    for image in content["images"]:
        if not _present(image["file_name"], image_folder, present):
            raise DataError(f"{json_file}: image {image['file_name']!r} is not in {image_folder}")
        records[image["id"]] = {
            "file_name": os.path.join(image_folder, image["file_name"]),
            "height": image["height"], "width": image["width"], "image_id": image["id"], "annotations": [],
        }
    for annotation in content["annotations"]:
        where = f"{json_file}: annotation {annotation.get('id')}"
        record = records.get(annotation["image_id"])
        if record is None:
            raise DataError(f"{where}: there is no image {annotation['image_id']!r}")
        if annotation["category_id"] not in contiguous:
            raise DataError(
                f"{where}: category_id {annotation['category_id']!r} is not among the categories {sorted(contiguous)}"
            )
        instance = {
            "bbox": _box_inside(annotation["bbox"], record, where),
            "category_id": contiguous[annotation["category_id"]],
            "iscrowd": annotation.get("iscrowd", 0),
        }
        if annotation.get("segmentation"):
            instance["segmentation"] = annotation["segmentation"]
        record["annotations"].append(instance)
    return _nonempty(Records(name, tuple(c["name"] for c in categories), list(records.values()), json_file))


def read_voc(name: str, folder: str, split: str) -> Records:
    """Records of a Pascal VOC folder with JPEGImages, Annotations and ImageSets/Main/``split``.txt.

    Classes are the object names of all annotation files of the folder, in alphabetical order. Boxes are 1-based inclusive
    pixels; objects marked difficult become crowd.

    Raises:
        DataError: a missing or malformed file, no images or objects, a box outside the image or without area.
    """
    listed = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
    try:
        with open(listed) as file:
            stems = [line.split()[0] for line in file if line.strip()]
        names = sorted(f for f in os.listdir(os.path.join(folder, "Annotations")) if f.endswith(".xml"))
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    trees = {stem: _read_xml(os.path.join(folder, "Annotations", stem)) for stem in names}
    classes = sorted({_text(o, "name", stem) for stem, tree in trees.items() for o in tree.iter("object")})
    images = {os.path.splitext(f)[0]: f for f in _listing(os.path.join(folder, "JPEGImages"))}
    records = []
    for number, stem in enumerate(stems):
        path = os.path.join(folder, "Annotations", f"{stem}.xml")
        if f"{stem}.xml" not in trees:
            raise DataError(f"{listed}: {stem!r} has no annotation file {path}")
        if stem not in images:
            raise DataError(f"{listed}: {stem!r} has no image in {os.path.join(folder, 'JPEGImages')}")
        records.append(_voc_record(trees[f"{stem}.xml"], path, os.path.join(folder, "JPEGImages", images[stem]), number, classes))
    return _nonempty(Records(name, tuple(classes), records, listed))


def _voc_record(tree: ElementTree.Element, path: str, image: str, number: int, classes: list[str]) -> dict:
    record = {
        "file_name": image, "image_id": number, "annotations": [],
        "width": int(_text(tree, "size/width", path)), "height": int(_text(tree, "size/height", path)),
    }
    for entry in tree.iter("object"):
        x1, y1, x2, y2 = (float(_text(entry, f"bndbox/{k}", path)) for k in ("xmin", "ymin", "xmax", "ymax"))
        where = f"{path}: object {_text(entry, 'name', path)!r}"
        record["annotations"].append({
            "bbox": _box_inside([x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], record, where),
            "category_id": classes.index(_text(entry, "name", path)),
            "iscrowd": int(entry.findtext("difficult") or 0),
        })
    return record


def _read_json(path: str) -> dict:
    try:
        with open(path) as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the data root is {data_root()!r} ($DETECTRON2_DATASETS)") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: not a COCO instances file, it has no list {key!r}")
    return content


def _read_xml(path: str) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: not a readable annotation file: {error}") from None


def _text(element: ElementTree.Element, path: str, source: str) -> str:
    text = element.findtext(path)
    if not text:
        raise DataError(f"{source}: no <{path}> in <{element.tag}>")
    return text


def _listing(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"image folder {folder}: {error.strerror}") from None


def _present(name: str, folder: str, listing: set[str]) -> bool:
    return name in listing or ("/" in name and os.path.isfile(os.path.join(folder, name)))


def _box_inside(box: list[float], record: dict, where: str) -> list[float]:
    x, y, w, h = map(float, box)
    width, height = record["width"], record["height"]
    if x < -_SLACK or y < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
        raise DataError(
            f"{where}: box {box} (x, y, width, height) leaves the image {record['file_name']} of {width} x {height} pixels"
        )
    left, top = max(x, 0.0), max(y, 0.0)
    w, h = min(x + w, width) - left, min(y + h, height) - top
    if not (w > 0 and h > 0):
        raise DataError(f"{where}: box {box} (x, y, width, height) has no area in {record['file_name']}")
    return [left, top, w, h]


def _nonempty(data: Records) -> Records:
    if not data.records:
        raise DataError(f"{data.source}: the data set has no images")
    if not any(record["annotations"] for record in data.records):
        raise DataError(f"{data.source}: no image has annotations")
    return data
