"""Data sets in COCO's instances format, as annotation tools write it."""

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kd2.data.classes import refuse_strangers, shown
from kd2.data.detection.coco_objects import entry_field, is_id, read_objects
from kd2.data.detection.numbers import numbers
from kd2.data.detection.objects import Records, add_objects
from kd2.data.detection.pictures import Pictures, set_sizes
from kd2.data.findings import Findings
from kd2.distill import DataError

_LISTS = ("images", "annotations", "categories")


def read_coco(
    name: str, json_file: str, image_folder: str, classes: Mapping[str, str] | None = None, headers: bool = True
) -> Records:
    """Records of a COCO instances file.

    Numbers may be texts; sizes, areas and ids may be missing; boxes are cut to their images; boxes and masks that
    cannot be used are left out.

    Args:
        classes: name in the file -> class, see ``kd2.data.classes.selection``; None: the categories of the file by id.
        headers: hold every size against the header of the picture; otherwise only missing sizes are read there.

    Raises:
        DataError: a missing or malformed file, an image file that is missing or has another size, an unknown category,
            boxes in another format; names the file and the entry.
    """
    findings = Findings(json_file)
    with _without_collector():
        content = read_json(json_file)
        ids, names = _classes(content, json_file, classes, findings)
        records, places = _images(content.pop("images"), json_file, image_folder, findings, headers)
        add_objects(records, read_objects(content.pop("annotations"), places, ids, findings), findings)
    numbered = {} if classes else {names[index]: number for number, index in reversed(ids.items())}
    return Records(name, names, records, json_file, findings, numbered)


def read_json(path: str) -> dict[str, list[dict]]:
    """What a COCO instances file holds: a dict with the lists images, annotations and categories, all of dicts.

    Raises:
        DataError: the file is missing or malformed.
    """
    try:
        with open(path, "rb") as file:
            text: Any = file.read()
        text = text.decode(json.detect_encoding(text))
        twice = any(text.count(f'"{key}"') > 1 for key in _LISTS)
        content = json.loads(text, object_pairs_hook=_once if twice else None)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file: {error}") from None
    for key in _LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: not a COCO instances file, it has no list {key!r}")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path}: not a COCO instances file, {key!r} has entries that are no groups")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A group of a JSON file in which none of the lists stands twice: the last one would win without a word."""
    for key, count in Counter(key for key, _ in pairs if key in _LISTS).items():
        if count > 1:
            raise ValueError(f"{key!r} stands twice in one group")
    return dict(pairs)


def _classes(
    content: dict, source: str, chosen: Mapping[str, str] | None, findings: Findings
) -> tuple[dict[Any, int], tuple[str, ...]]:
    """The place of the class of every category id, -1 for one that is not chosen, and the names of the classes."""
    numbers_of = [entry_field(c, "id", f"{source}: category {c}") for c in content["categories"]]
    if len(set(map(str, numbers_of))) < len(numbers_of):
        raise DataError(f"{source}: two categories have one id, found {shown(list(map(str, numbers_of)))}")
    categories = dict(sorted(zip(numbers_of, content["categories"]), key=lambda pair: _order(pair[0])))
    names = {n: str(entry_field(c, "name", f"{source}: category {n}")).strip() for n, c in categories.items()}
    if chosen is None:
        for number in _empty_parents(categories, content["annotations"]):
            findings.dropped("category is the parent of others and has no object, it is no class", names.pop(number))
        for name, count in Counter(names.values()).items():
            if count > 1:
                findings.repaired("categories of one name are one class", name)
        chosen = {name: name for name in names.values()}
    refuse_strangers(chosen, names.values(), source)
    for name in chosen.keys() - set(names.values()):
        findings.noted("CLASSES has a name that no category of the file has", name)
    classes = tuple(dict.fromkeys(chosen.values()))
    return {number: classes.index(chosen[name]) if name in chosen else -1 for number, name in names.items()}, classes


def _order(number: Any) -> tuple[float, str]:
    """Numbers by value, also where they are texts, then other texts."""
    value = numbers([number])[0]
    return (value if value == value else np.inf, str(number))


def _empty_parents(categories: dict[Any, dict], annotations: list[dict]) -> list[Any]:
    """Numbers of the categories without an object that others have as ``supercategory``: Roboflow's first one."""
    parents = {str(c.get("supercategory")) for c in categories.values() if c.get("supercategory") != c.get("name")}
    used = {str(number) for number in {a.get("category_id") for a in annotations if is_id(a.get("category_id"))}}
    return [n for n, c in categories.items() if str(c.get("name")) in parents and str(n) not in used]


def _images(
    images: list[dict], source: str, folder: str, findings: Findings, headers: bool
) -> tuple[list[dict], dict[Any, int]]:
    """The records without their objects, and the place of each by the image's id."""
    if not images:
        raise DataError(f"{source}: the data set has no images")
    names = [entry_field(image, "file_name", f"{source}: image {_short(image)}") for image in images]
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(f"{source}: file_name {name!r}, expected a text")
    pictures = Pictures(folder, names, source, findings)
    records: list[dict] = []
    sizes: list[tuple[Any, Any]] = []
    places: dict[Any, int] = {}
    of_path: dict[str, int] = {}
    for image, name in zip(images, names):
        number, path = entry_field(image, "id", f"{source}: image {_short(image)}"), pictures.find(name)
        if number in places:
            raise DataError(f"{source}: two images have the id {number!r}")
        places[number] = of_path.setdefault(path, len(records))
        if places[number] < len(records):
            findings.repaired("image has two ids, its entries are taken together", name)
            continue
        records.append({"file_name": path, "height": 0, "width": 0, "image_id": number, "annotations": []})
        sizes.append((image.get("height"), image.get("width")))
    set_sizes(records, sizes, findings, headers)
    return records, places


def _short(entry: Any) -> str:
    text = str(entry)
    return text if len(text) < 100 else f"{text[:100]}..."


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of new objects without a cycle among them: the garbage collector would only walk over them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
