"""Data sets in Pascal VOC's folder layout."""

import os
from typing import Any
from xml.etree import ElementTree

from kd2.data.detection.checks import Records, box_inside, nonempty
from kd2.data.root import files_of, inside
from kd2.distill import DataError


def read_voc(name: str, folder: str, split: str) -> Records:
    """Records of a Pascal VOC folder with JPEGImages, Annotations and ImageSets/Main/``split``.txt.

    Classes are the object names of all annotation files of the folder, in alphabetical order. Boxes are 1-based
    inclusive pixels; objects marked difficult become crowd.

    Raises:
        DataError: a missing or malformed file, no images or objects, a box outside the image or without area.
    """
    listed = inside(folder, f"ImageSets/Main/{split}.txt", f"data set {name!r}: SPLIT")
    annotations, pictures = inside(folder, "Annotations", folder), inside(folder, "JPEGImages", folder)
    try:
        with open(listed) as file:
            stems = [line.split()[0] for line in file if line.strip()]
        paths = {f[:-4]: inside(annotations, f, folder) for f in sorted(os.listdir(annotations)) if f.endswith(".xml")}
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    trees = {stem: _read_xml(path) for stem, path in paths.items()}
    classes = sorted({_text(o, "name", paths[stem]) for stem, tree in trees.items() for o in tree.iter("object")})
    images = {os.path.splitext(f)[0]: f for f in files_of(pictures)}
    records = []
    for number, stem in enumerate(stems):
        if stem not in trees:
            raise DataError(f"{listed}: {stem!r} has no annotation file {os.path.join(annotations, stem)}.xml")
        if stem not in images:
            raise DataError(f"{listed}: {stem!r} has no image in {pictures}")
        records.append(_record(trees[stem], paths[stem], inside(pictures, images[stem], listed), number, classes))
    return nonempty(Records(name, tuple(classes), records, listed))


def _record(tree: ElementTree.Element, path: str, image: str, number: int, classes: list[str]) -> dict:
    record: dict[str, Any] = {
        "file_name": image,
        "image_id": number,
        "annotations": [],
        "width": int(_number(tree, "size/width", path)),
        "height": int(_number(tree, "size/height", path)),
    }
    for entry in tree.iter("object"):
        x1, y1, x2, y2 = (_number(entry, f"bndbox/{k}", path) for k in ("xmin", "ymin", "xmax", "ymax"))
        where = f"{path}: object {_text(entry, 'name', path)!r}"
        record["annotations"].append(
            {
                "bbox": box_inside([x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], record, where),
                "category_id": classes.index(_text(entry, "name", path)),
                "iscrowd": int((entry.findtext("difficult") or "").strip() == "1"),
            }
        )
    return record


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


def _number(element: ElementTree.Element, path: str, source: str) -> float:
    text = _text(element, path, source)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{source}: <{path}> is {text!r}, expected a number") from None
