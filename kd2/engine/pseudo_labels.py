"""A detector's own detections in a folder of images, as a data set in COCO's form."""

import functools
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pycocotools import mask as coco_mask
from torch import nn

from kd2.data.detection.records import Records
from kd2.data.findings import Findings
from kd2.data.images import ENDINGS, read_image
from kd2.data.root import files_below, outside_allowed
from kd2.distill import ConfigError, DataError
from kd2.distill.values import Share, check_value
from kd2.engine import for_evaluation
from kd2.engine.experiment import Experiment
from kd2.engine.pair import least_score
from kd2.engine.permission import permitted
from kd2.engine.weights.checkpoint import saved_classes
from kd2.engine.weights.names import zoo_classes
from kd2.runs.files import write_atomically
from kd2.runs.folder import check_writable

logger = logging.getLogger(__name__)

_NAME = "pseudo_labels"
_THREADS = 8  # reading pictures waits for the disk


def find_objects(
    config_file: str,
    options: Sequence[str],
    folder: str,
    least: float,
    classes: Sequence[str] = (),
    allow_pickle: bool = False,
    allow_code: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """What the model of ``MODEL.WEIGHTS`` finds in the images of a folder and of those in it, as by evaluation.

    An image that cannot be read is left out, and so is, with a word in the log, a detection whose mask has no pixel.

    Args:
        config_file, options: of a detector, see ``kd2.engine.run``.
        least: detections with smaller scores are left out, 0 to 1.
        classes: names in the order of the model's outputs, where its checkpoint does not tell them.
        allow_pickle, allow_code: see ``kd2.engine.run``.

    Returns:
        The content of a COCO file: file names relative to ``folder``, categories from 1, and of each annotation
        ``bbox``, ``area``, ``iscrowd`` 0, ``score``, and of an instance its mask as a run-length code. Then what was
        wrong with each image that was left out.

    Raises:
        ConfigError: no weights, no detector, class names that nobody tells, that are too few or one of them twice; a
            score outside of 0 to 1 or below that of the model's own evaluation.
        DataError: a folder without an image that can be read.
    """
    check_value("--score", least, Share)
    with permitted(pickles=allow_pickle, code=allow_code):
        experiment = for_evaluation(config_file, list(options))
        with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE):
            return _found(experiment, folder, least, classes)


def _found(
    experiment: Experiment, folder: str, least: float, classes: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    cfg = experiment.cfg
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty, expected the checkpoint of the model that finds the objects")
    names = list(classes) or zoo_classes(cfg.MODEL.WEIGHTS)
    names = names or saved_classes(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS").get("things", [])
    data, broken = _images(folder, cfg.INPUT.PIXEL_RANGE)
    built = experiment.build_student()
    key, count = built.classes.get("things", ("", 0))
    if len(names) != count or not count:
        raise ConfigError(
            f"{key or 'MODEL.META_ARCHITECTURE'}: the model finds {count} classes, known are the names of {len(names)}"
            f"{': ' + ', '.join(names) if names else ''}; --classes gives others"
        )
    if len(set(names)) < count:
        raise ConfigError(f"the names of the model's classes are {', '.join(names)}, expected each once")
    _check_score(built.module, key.rpartition(".")[0], least)
    experiment.load_weights(built.module, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", partial=False)
    found = _solid([d for d in experiment.find(built.module.eval(), data) if d["score"] >= least])
    images = [
        {"id": place, "file_name": os.path.relpath(r["file_name"], folder), "height": r["height"], "width": r["width"]}
        for place, r in enumerate(data.records)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    annotations = [_annotation(number, detection) for number, detection in enumerate(found, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, broken


def _images(folder: str, pixel_range: Sequence[float]) -> tuple[Records, list[str]]:
    """The pictures below a folder that can be read, and what is wrong with the others; each is read once for that."""
    paths = [os.path.join(folder, name) for name in files_below(folder) if name.lower().endswith(ENDINGS)]
    if not paths:
        raise DataError(f"--images {folder} has no images; known by {', '.join(ENDINGS)}")
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(functools.partial(_size, pixel_range=pixel_range), paths))
    good = [(path, size) for path, size in zip(paths, sizes) if not isinstance(size, str)]
    broken = [size for size in sizes if isinstance(size, str)]
    if not good:
        raise DataError(f"--images {folder}: none of its {len(paths)} images can be read: {broken[0]}")
    records = [
        {"image_id": i, "file_name": path, "height": height, "width": width, "dataset": _NAME, "annotations": []}
        for i, (path, (height, width)) in enumerate(good)
    ]
    return Records(_NAME, (), records, folder, Findings(folder), {}, pixel_range), broken


def _size(path: str, pixel_range: Sequence[float]) -> tuple[int, int] | str:
    """Height and width of a picture, or what is wrong with it."""
    try:
        height, width, _ = read_image(path, pixel_range).shape
    except DataError as error:
        return str(error)
    return height, width


def check_new(path: str) -> None:
    """Raises ConfigError when there is a file of that name, or its folder cannot be written."""
    if os.path.lexists(path):
        raise ConfigError(f"--to {path}: there is a file of that name, which is kept; give another")
    check_writable(os.path.dirname(path) or ".", "--to: the folder")


def write_coco(content: dict[str, Any], path: str) -> None:
    """Write the content of a COCO file; raises like ``check_new``."""
    check_new(path)
    write_atomically(json.dumps(content), path)


def _check_score(model: nn.Module, node: str, least: float) -> None:
    """Refuse a score below that of the evaluation, which never gives what lies between."""
    threshold = least_score(model)
    if least < threshold:
        key = f"{node}.SCORE_THRESH_TEST" if node.startswith("MODEL.") else f"test_score_thresh of the {node}"
        raise ConfigError(f"--score is {least}, but {key} is {threshold}: objects between are not found; lower it")


def _solid(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The detections with a pixel in their mask, or without masks; tells how many others there are."""
    solid = [d for d in found if "segmentation" not in d or coco_mask.area(d["segmentation"]) > 0]
    if len(solid) < len(found):
        logger.warning("%d of %d detections have a mask without a pixel, left out", len(found) - len(solid), len(found))
    return solid


def _annotation(number: int, detection: dict[str, Any]) -> dict[str, Any]:
    told = detection | {"id": number, "category_id": detection["category_id"] + 1, "iscrowd": 0}
    told["area"] = detection["bbox"][2] * detection["bbox"][3]
    if "segmentation" in detection:
        code = detection["segmentation"]
        told |= {"area": float(coco_mask.area(code)), "segmentation": code | {"counts": code["counts"].decode()}}
    return told
