"""Four pictures with five painted rectangles, and annotation files of them as tools and accidents leave them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (96, 64)  # width, height
COLORS = {"cat": (220, 40, 40), "dog": (40, 40, 220)}
# File -> what is painted there: name, x, y, width, height.
TRUTH = {
    "im0.jpg": [("cat", 10, 8, 30, 24)],
    "im1.jpg": [("dog", 40, 20, 36, 30), ("cat", 4, 40, 20, 16)],
    "im2.jpg": [("cat", 50, 10, 30, 40)],
    "im3.jpg": [("dog", 12, 12, 40, 40)],
}
NUMBERS = {"cat": 1, "dog": 2}
Entry = dict[str, str]


def paint(folder: Path) -> None:
    """The pictures of ``TRUTH``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, objects in TRUTH.items():
        pixels = np.full((SIZE[1], SIZE[0], 3), 90, dtype=np.uint8)
        for label, x, y, w, h in objects:
            pixels[y : y + h, x : x + w] = COLORS[label]
        Image.fromarray(pixels).save(folder / name)


def coco() -> dict:
    """The plain COCO file of ``TRUTH``."""
    images = [{"id": i, "file_name": f, "width": SIZE[0], "height": SIZE[1]} for i, f in enumerate(TRUTH, 1)]
    annotations = [
        {
            "id": 0,
            "image_id": image,
            "category_id": NUMBERS[name],
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for image, objects in enumerate(TRUTH.values(), 1)
        for name, x, y, w, h in objects
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": number, "name": name} for name, number in NUMBERS.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, content: dict | None = None) -> Entry:
    """Pictures and a COCO file below ``folder``; returns their entry of ``DATASETS.CUSTOM``."""
    paint(folder / "images")
    (folder / "coco.json").write_text(json.dumps(coco() if content is None else content))
    return {"JSON": str(folder / "coco.json"), "IMAGES": str(folder / "images")}


def write_voc(folder: Path, exact: bool = False) -> Entry:
    """The same as Pascal VOC: whole 1-based pixels, or with ``exact`` corners with fractions as CVAT writes them."""
    paint(folder / "JPEGImages")
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for file, objects in TRUTH.items():
        entries = []
        for name, x, y, w, h in objects:
            corners = [f"{v:.2f}" for v in (x, y, x + w, y + h)] if exact else (x + 1, y + 1, x + w, y + h)
            edges = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
            entries.append(f"<object><name>{name}</name><bndbox>{edges}</bndbox></object>")
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        text = f"<annotation><filename>{file}</filename>{size}{''.join(entries)}</annotation>"
        (folder / "Annotations" / f"{file[:-4]}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(f[:-4] for f in TRUTH))
    return {"VOC": str(folder), "SPLIT": "train"}


def _each(**entries) -> Callable[[dict], None]:
    """Sets entries of every annotation; functions are called with the annotation, None takes an entry away."""

    def change(content: dict) -> None:
        for annotation in content["annotations"]:
            for key, value in entries.items():
                annotation[key] = value(annotation) if callable(value) else value
                if annotation[key] is None:
                    del annotation[key]

    return change


def _images(**entries) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for image in content["images"]:
            image.update(entries)

    return change


def _numbered(content: dict, images: Callable, annotations: Callable) -> None:
    for image in content["images"]:
        image["id"] = images(image["id"])
    for annotation in content["annotations"]:
        annotation["image_id"] = annotations(annotation["image_id"])


def _add(**entries) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content["annotations"].append({"id": 90, "image_id": 1, "category_id": 1, "area": 400, "iscrowd": 0} | entries)

    return change


def _dummy_parent(content: dict) -> None:
    for category in content["categories"]:
        category["supercategory"] = "pets"
    content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})


def _from_zero(content: dict) -> None:
    for entry in (*content["categories"], *content["annotations"]):
        entry["id"] -= 1
    _each(category_id=lambda a: a["category_id"] - 1)(content)


def _runs(annotation: dict) -> dict:
    x, y, w, h = annotation["bbox"]
    height = SIZE[1]
    counts = [x * height + y, *([h, height - h] * w)]
    counts[-1] = SIZE[0] * height - sum(counts[:-1])
    return {"size": [height, SIZE[0]], "counts": counts}


# Kind -> what it changes of the plain COCO file. A perfect prediction of all painted objects scores 100 on each.
COCO_KINDS: dict[str, Callable[[dict], None]] = {
    "plain": lambda content: None,
    "a parent category without boxes": _dummy_parent,
    "numbers from 0": _from_zero,
    "annotation ids given twice": _each(id=1),
    "no annotation ids": _each(id=None),
    "no area and no iscrowd": _each(area=None, iscrowd=None),
    "areas of 0": _each(area=0),
    "numbers as texts": _each(
        bbox=lambda a: [str(x) for x in a["bbox"]],
        area=lambda a: str(a["area"]),
        iscrowd=lambda a: "0",
        category_id=lambda a: str(a["category_id"]),
    ),
    "iscrowd NaN": _each(iscrowd=float("nan")),
    "image ids as texts": lambda content: _numbered(content, str, lambda number: number),
    "image ids with letters": lambda content: _numbered(content, "img_{}".format, "img_{}".format),
    "no sizes": _images(width=0, height=None),
    "sizes as texts": _images(width="96", height="64.0"),
    "paths of another machine": lambda c: [i.update(file_name=f"upload\\1\\{i['file_name']}") for i in c["images"]],
    "a box without height": _add(bbox=[46.65, 38.33, 1.03, 0.0]),
    "a box of NaN": _add(bbox=[float("nan")] * 4),
    "one picture under two ids": lambda c: c["images"].append(c["images"][0] | {"id": 500}),
    "a box outside": _add(bbox=[100, 70, 5, 5]),
    "crowd": _add(bbox=[60, 40, 20, 20], iscrowd=1, segmentation=_runs({"bbox": [60, 40, 20, 20]})),
    "an ignored object": _add(bbox=[60, 40, 20, 20], ignore=1),
    "boxes from polygons": _each(bbox=None),
    "uncompressed masks": _each(segmentation=_runs),
    "flat polygons": _each(segmentation=lambda a: a["segmentation"][0]),
    "one bad polygon of two": _each(segmentation=lambda a: [*a["segmentation"], [1, 2, 3, 4]]),
    "no masks": _each(segmentation=[]),
    "masks of two points": _each(segmentation=[[1, 2, 3, 4]]),
    "masks out of the world": _each(segmentation=[[1e18, 1, 5, 1e18, 3, 3]]),
    "masks of another size": _each(segmentation={"size": [3, 2], "counts": [1, 5]}),
    "one mask is missing": lambda content: content["annotations"][1].update(segmentation=None),
}


def write_kind(folder: Path, kind: str) -> Entry:
    """A data set of one of ``COCO_KINDS``, or ``VOC`` or ``VOC with fractions``."""
    if kind.startswith("VOC"):
        return write_voc(folder, exact=kind != "VOC")
    content = coco()
    COCO_KINDS[kind](content)
    return write_coco(folder, content)


KINDS = [*COCO_KINDS, "VOC", "VOC with fractions"]


def painted(file_name: str, classes: tuple[str, ...], masks: bool = False) -> dict[str, np.ndarray]:
    """What a perfect detector finds on a picture: boxes x1, y1, x2, y2, classes, scores and, if asked for, masks."""
    objects = TRUTH[Path(file_name).name]
    boxes = np.array([[x, y, x + w, y + h] for _, x, y, w, h in objects], dtype=np.float32)
    found = {
        "boxes": boxes,
        "classes": np.array([classes.index(name) for name, *_ in objects]),
        "scores": np.linspace(0.9, 0.5, len(objects), dtype=np.float32),
    }
    if masks:
        found["masks"] = np.zeros((len(objects), SIZE[1], SIZE[0]), dtype=bool)
        for mask, (x1, y1, x2, y2) in zip(found["masks"], boxes.astype(int)):
            mask[y1:y2, x1:x2] = True
    return found
