"""A user's data set made small enough for minutes on a CPU: split by seed, images reduced, boxes scaled along."""

import functools
import json
import os

import numpy as np
from PIL import Image

from kd2.data.detection.records import read_coco
from kd2.data.images import read_record_image
from kd2.data.stream import mapped
from kd2.distill import DataError

# Pixels of the shorter and the longer side at most.
SHORT, LONG = 168, 224
# What that means for a training: fewer images a batch pay for their size.
OPTIONS = [
    "INPUT.MIN_SIZE_TRAIN",
    f"[{SHORT}]",
    "INPUT.MAX_SIZE_TRAIN",
    str(LONG),
    "INPUT.MIN_SIZE_TEST",
    str(SHORT),
    "INPUT.MAX_SIZE_TEST",
    str(LONG),
    "SOLVER.IMS_PER_BATCH",
    "4",
]
TEACHER_OPTIONS = ["SOLVER.MAX_ITER", "900", "SOLVER.BASE_LR", "0.001"]
# Images at most, and the part of all that is for validation.
MOST = {"train": 1500, "val": 250}
VAL_SHARE = 0.2


def reduce(json_file: str, image_folder: str, folder: str, seed: int) -> dict[str, str]:
    """Write ``train.json`` and ``val.json`` with reduced images in ``train`` and ``val`` into ``folder``.

    Images without a box (crowd does not count) are left out; the rest is shuffled by ``seed``.

    Returns:
        Split name -> JSON file.

    Raises:
        DataError: see ``read_coco``; an image that does not decode or has another size than its entry; fewer than two
            images with a box.
    """
    data = read_coco("data", json_file, image_folder)
    data.findings.tell()
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(data.classes)]
    files = {}
    for name, records in split(data.records, data.source, seed).items():
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        small = [mapped(functools.partial(_reduced, folder=os.path.join(folder, name)), record) for record in records]
        content = {"images": [image for image, _ in small], "annotations": [], "categories": categories}
        for annotation in (a for _, annotations in small for a in annotations):
            content["annotations"].append(annotation | {"id": len(content["annotations"]) + 1})
        files[name] = os.path.join(folder, f"{name}.json")
        with open(files[name], "w") as file:
            json.dump(content, file)
    return files


def split(records: list[dict], source: str, seed: int) -> dict[str, list[dict]]:
    """Training and validation records; numbers them with ``number``."""
    labeled = [r for r in records if any(not a["iscrowd"] for a in r["annotations"])]
    if len(labeled) < 2:
        raise DataError(f"{source}: {len(labeled)} images have boxes, expected at least 2 for training and validation")
    order = np.random.default_rng(seed).permutation(len(labeled))
    mixed = [labeled[i] | {"number": n + 1} for n, i in enumerate(order)]
    held_out = min(MOST["val"], max(1, round(VAL_SHARE * len(mixed))))
    return {"train": mixed[held_out:][: MOST["train"]], "val": mixed[:held_out]}


def _reduced(record: dict, folder: str) -> tuple[dict, list[dict]]:
    """Save the record's image reduced; its COCO image entry and annotations without ids."""
    width, height = record["width"], record["height"]
    scale = min(1.0, SHORT / min(width, height), LONG / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    name = f"{record['number']:05d}.png"
    picture = Image.fromarray(read_record_image(record))
    picture.resize(size, Image.Resampling.BICUBIC).save(os.path.join(folder, name))
    across, down = size[0] / width, size[1] / height
    annotations = []
    for annotation in record["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotations.append(
            {
                "image_id": record["number"],
                "category_id": annotation["category_id"] + 1,
                "bbox": [x * across, y * down, w * across, h * down],
                "area": w * across * h * down,
                "iscrowd": annotation["iscrowd"],
            }
        )
    return {"id": record["number"], "file_name": name, "width": size[0], "height": size[1]}, annotations
