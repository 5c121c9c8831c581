"""Data sets in COCO's instances format."""

import json
import os
from typing import Any

from kd2.data.detection.checks import Records, box_inside, field, nonempty
from kd2.data.root import files_of, inside
from kd2.distill import DataError

# Entries of an annotation that are kept as they are, where the file has them.
_KEPT = ("segmentation", "area")


def read_coco(name: str, json_file: str, image_folder: str) -> Records:
    """Records of a COCO instances file.

    Raises:
        DataError: a missing or malformed file, no images, no annotations, a missing image file, an unknown category or
            image, a box outside the image or without area; names the file and the annotation ids.
    """
    content = _read_json(json_file)
    categories = sorted(content["categories"], key=lambda c: field(c, "id", f"{json_file}: category {c}"))
    contiguous = {category["id"]: i for i, category in enumerate(categories)}
    records = _images(content["images"], json_file, image_folder)
    for annotation in content["annotations"]:
        where = f"{json_file}: annotation {field(annotation, 'id', f'{json_file}: annotation {annotation}')}"
        image = field(annotation, "image_id", where)
        if image not in records:
            raise DataError(f"{where}: there is no image {image!r}")
        records[image]["annotations"].append(_instance(annotation, records[image], contiguous, where))
    classes = tuple(field(c, "name", f"{json_file}: category {c['id']}") for c in categories)
    return nonempty(Records(name, classes, list(records.values()), json_file, tuple(contiguous)))


def _images(images: list[dict], json_file: str, folder: str) -> dict[Any, dict]:
    present = files_of(folder)
    records = {}
    for image in images:
        where = f"{json_file}: image {image}"
        file_name, number = field(image, "file_name", where), field(image, "id", where)
        path = inside(folder, file_name, json_file)
        if file_name not in present and not ("/" in file_name and os.path.isfile(path)):
            raise DataError(f"{json_file}: image {file_name!r} is not in {folder}")
        if number in records:
            raise DataError(f"{json_file}: two images have the id {number!r}")
        records[number] = {
            "file_name": path,
            "height": field(image, "height", where),
            "width": field(image, "width", where),
            "image_id": number,
            "annotations": [],
        }
    return records


def _instance(annotation: dict, record: dict, contiguous: dict[Any, int], where: str) -> dict:
    category = field(annotation, "category_id", where)
    if category not in contiguous:
        raise DataError(f"{where}: category_id {category!r} is not among the categories {sorted(contiguous)}")
    return {
        "bbox": box_inside(field(annotation, "bbox", where), record, where),
        "category_id": contiguous[category],
        "iscrowd": annotation.get("iscrowd", 0),
    } | {key: annotation[key] for key in _KEPT if annotation.get(key)}


def _read_json(path: str) -> dict:
    try:
        with open(path) as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: not a COCO instances file, it has no list {key!r}")
    return content
