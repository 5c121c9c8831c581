"""Data sets in Pascal VOC's format, in its own layout and in those of annotation tools."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from kd2.data.classes import refuse_strangers
from kd2.data.detection.numbers import flag, numbers
from kd2.data.detection.objects import Objects, Records, add_objects
from kd2.data.detection.pictures import set_sizes
from kd2.data.findings import Findings
from kd2.data.root import files_below, inside
from kd2.distill import DataError, nearest

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Bytes of an annotation file; more is no list of boxes.
_LARGEST = 1 << 24


def read_voc(name: str, folder: str, split: str, classes: Mapping[str, str] | None = None) -> Records:
    """Records of a folder with Annotations, JPEGImages (or images) and ImageSets/Main/``split``.txt, or of a folder
    ``split`` with pictures and annotation files side by side.

    Classes are the object names of all annotation files, in alphabetical order. Boxes are 1-based inclusive pixels;
    where most of the files' boxes are written with fractions they are corners from 0. Objects marked difficult are
    crowd. What cannot be used is left out, see ``kd2.data.detection.objects``.

    Args:
        classes: name in the files -> class, see ``kd2.data.classes.selection``.

    Raises:
        DataError: a missing or malformed file, another layout, boxes in another format; names the file.
    """
    source, annotations, pictures = _layout(folder, split)
    findings = Findings(source)
    files = _files(annotations, (".xml",))
    stems = _listed(source, files, findings) if source.endswith(".txt") else sorted(files)
    if not stems:
        raise DataError(f"{source}: the data set has no images")
    trees = {stem: _read_xml(_only(paths, source)) for stem, paths in files.items()}
    images = _files(pictures, [e for e, kind in Image.registered_extensions().items() if kind in Image.OPEN])
    names = sorted({_text(o, "name", files[stem][0]) for stem, tree in trees.items() for o in tree.findall("object")})
    chosen = {name: name for name in names} if classes is None else classes
    refuse_strangers(chosen, names, source)
    for missing in chosen.keys() - set(names):
        findings.noted("CLASSES has a name that no annotation file has", missing)
    order = tuple(dict.fromkeys(chosen.values()))
    records = []
    for number, stem in enumerate(stems):
        tree = trees[stem]
        image = _picture(images.get(stem, []), tree, stem, source, pictures)
        record = {"file_name": image, "height": 0, "width": 0, "image_id": number, "annotations": []}
        records.append(record)
    given = [(trees[stem].findtext("size/height"), trees[stem].findtext("size/width")) for stem in stems]
    set_sizes(records, given, findings, headers=True)
    places = {name: order.index(to) for name, to in chosen.items()}
    exact = _fractions(trees.values())
    if exact:
        findings.noted("boxes have fractions, they are taken as corners from 0 as CVAT and VoTT write them", source)
    add_objects(records, _objects([(trees[s], files[s][0]) for s in stems], places, exact, findings), findings)
    return Records(name, order, records, source, findings)


def _layout(folder: str, split: str) -> tuple[str, str, str]:
    """The list of the split or the folder that is one, the folder of annotations, and that of pictures."""
    listed = inside(folder, f"ImageSets/Main/{split}.txt", f"{folder}: SPLIT")
    flat = inside(folder, split, f"{folder}: SPLIT")
    if os.path.isfile(listed):
        pictures = next((p for p in ("JPEGImages", "images") if os.path.isdir(os.path.join(folder, p))), "JPEGImages")
        return listed, os.path.join(folder, "Annotations"), os.path.join(folder, pictures)
    if os.path.isdir(flat) and _files(flat, (".xml",)):
        return flat, flat, flat
    found = ", ".join(sorted(os.listdir(folder))[:8]) if os.path.isdir(folder) else "no folder"
    raise DataError(
        f"{folder}: there is neither the list ImageSets/Main/{split}.txt (a name a line, beside Annotations and "
        f"JPEGImages or images) nor a folder {split} with pictures and annotation files; found {found}"
    )


def _files(folder: str, endings: Collection[str]) -> dict[str, list[str]]:
    """The paths below a folder by their names in it without ending; files that a system hides are left out."""
    found = defaultdict(list)
    for file in files_below(folder):
        stem, ending = os.path.splitext(file)
        if ending.lower() in endings:
            found[stem.replace(os.sep, "/")].append(os.path.join(folder, file))
    return found


def _listed(source: str, files: Mapping[str, list[str]], findings: Findings) -> list[str]:
    """The stems of a list: a name a line, perhaps with an ending and, in VOC's lists of a class, 1, 0 or -1 behind."""
    try:
        with open(source, encoding="utf-8-sig") as file:
            lines = [line.strip().replace("\\", "/") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: no list that can be read: {error}") from None
    stems: dict[str, None] = {}
    for line in filter(None, lines):
        bare = re.sub(r"\s+-?[01]$", "", line)
        stem = next((s for s in (line, bare, os.path.splitext(line)[0], os.path.splitext(bare)[0]) if s in files), None)
        if stem is None:
            raise DataError(f"{source}: {bare!r} has no annotation file; {nearest(bare, files)}")
        if stem in stems:
            findings.dropped("image is listed twice", stem)
        stems[stem] = None
    return list(stems)


def _only(paths: list[str], source: str) -> str:
    if len(paths) > 1:
        raise DataError(f"{source}: {' and '.join(paths)} are both annotation files of one image")
    return paths[0]


def _picture(paths: list[str], tree: ElementTree.Element, stem: str, source: str, folder: str) -> str:
    """The picture of an annotation file: that of its stem, of several the one that its <filename> names."""
    named = (tree.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
    if len(paths) > 1:
        paths = [path for path in paths if os.path.basename(path) == named] or paths
    if len(paths) > 1:
        raise DataError(f"{source}: {stem!r} has several images: {', '.join(paths)}")
    if not paths:
        raise DataError(f"{source}: {stem!r} has no image in {folder}")
    return paths[0]


def _fractions(trees: Iterable[ElementTree.Element]) -> bool:
    """Whether most boxes have a decimal point."""
    points = ["." in "".join(b.itertext()) for tree in trees for b in tree.findall("object/bndbox")]
    return sum(points) > len(points) / 2


def _objects(
    pages: list[tuple[ElementTree.Element, str]], places: Mapping[str, int], exact: bool, findings: Findings
) -> Objects:
    """The table of the objects of annotation files, in the order of their images."""
    of_image, of_class, corners, crowd, called = [], [], [], [], []
    for number, (tree, path) in enumerate(pages):
        for entry in tree.findall("object"):
            name = _text(entry, "name", path)
            called.append(f"{os.path.basename(path)} {name}")
            if name not in places:
                findings.dropped("object of a class that CLASSES does not name", called.pop())
                continue
            difficult = flag(entry.findtext("difficult"))
            if difficult is None:
                raise DataError(f"{path}: <difficult> is {entry.findtext('difficult')!r}, expected 0 or 1")
            of_image.append(number)
            of_class.append(places[name])
            crowd.append(int(difficult))
            corners.append([_coordinate(entry, key, path) for key in _CORNERS])
    boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
    low = boxes[:, :2] - (0 if exact else 1)
    boxes = np.concatenate([low, boxes[:, 2:] - low], 1)
    unknown = [None] * len(boxes)
    return Objects(of_image, of_class, boxes, crowd, unknown, list(unknown), called.__getitem__)


def _read_xml(path: str) -> ElementTree.Element:
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST or b"<!ENTITY" in content.replace(b"\0", b""):
            raise DataError(f"{path}: no annotation file: it is larger than {_LARGEST} bytes or defines entities")
        return ElementTree.fromstring(content)
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable annotation file: {error}") from None


def _text(element: ElementTree.Element, path: str, source: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise DataError(f"{source}: no <{path}> in <{element.tag}>")
    return text


def _coordinate(entry: ElementTree.Element, key: str, source: str) -> float:
    text = _text(entry, f"bndbox/{key}", source)
    value = float(numbers([text])[0])
    if value != value and text.lower() != "nan":
        raise DataError(f"{source}: <bndbox/{key}> is {text!r}, expected a number")
    return value
