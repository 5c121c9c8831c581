"""COCO's average precision on checked records, by pycocotools: the one score of detectors on every road.

One rule for scores without a number: nan where the data have nothing to find (no object of a class, a size or at all),
0 where they have and nothing is found. Crowd is an ignored region. In the score of masks so is the box of an object
without a usable mask.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kd2.data.detection.records import Records

# Place of COCO's thresholds of overlap and of its areas in its table of precisions.
_METRICS = {
    "AP": (slice(None), 0),
    "AP50": (0, 0),
    "AP75": (5, 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}


def detections(
    place: int, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, masks: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """What a detector found on an image, in COCO's result format.

    Args:
        place: of the image's record in its data set.
        boxes: (M, 4) x1, y1, x2, y2 in pixels of the image in its original size.
        scores, classes: (M,); classes from 0.
        masks: (M, H, W) booleans.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    found = [
        {"image_id": place, "category_id": index, "bbox": box, "score": score}
        for box, score, index in zip(corners, scores.tolist(), classes.tolist())
    ]
    for detection, mask in zip(found, () if masks is None else masks):
        detection["segmentation"] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return found


def score(data: Records, found: list[dict[str, Any]], kinds: Sequence[str], limit: int) -> dict[str, dict[str, float]]:
    """Percent by kind and name as Detectron2 has them: ``{"bbox": {"AP": ..., "AP-<class>": ...}}``.

    Args:
        found: of all images, from ``detections``.
        kinds: ``bbox``, ``segm``.
        limit: detections of an image that count, the best of each class: ``TEST.DETECTIONS_PER_IMAGE``.
    """
    return {kind: _named(_precision(data, found, kind, limit), data.classes) for kind in kinds}


def score_names(data: Records, kinds: Sequence[str]) -> dict[str, list[str]]:
    """The names of ``score`` by kind."""
    nothing = np.full((10, 101, len(data.classes), 4), -1.0)  # in the shape of pycocotools' table
    return {kind: list(_named(nothing, data.classes)) for kind in kinds}


def _precision(data: Records, found: list[dict[str, Any]], kind: str, limit: int) -> np.ndarray:
    """pycocotools' table (thresholds, recalls, classes, areas), -1 where there is nothing to find."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _indexed(data, _truth(data, kind))
        evaluation = COCOeval(truth, _indexed(data, [_of_kind(d, kind) for d in found]), kind)
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0]


def _named(precision: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    scores = {name: _mean(precision[threshold][..., area]) for name, (threshold, area) in _METRICS.items()}
    return scores | {f"AP-{name}": _mean(precision[:, :, index, 0]) for index, name in enumerate(classes)}


def _mean(precision: np.ndarray) -> float:
    """In percent; pycocotools' perfect precision is a last bit below 1."""
    known = precision[precision > -1]
    return round(100 * float(known.mean()), 9) if known.size else float("nan")


def _truth(data: Records, kind: str) -> Iterator[dict[str, Any]]:
    for place, record in enumerate(data.records):
        for annotation in record["annotations"]:
            own = annotation | {"image_id": place}
            if kind == "segm" and "segmentation" not in annotation:
                own |= {"iscrowd": 1, "segmentation": [_outline(*annotation["bbox"])]}
            yield own


def _outline(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _of_kind(detection: dict[str, Any], kind: str) -> dict[str, Any]:
    """A detection with the area of its box or of its mask: that decides how large it is."""
    area = detection["bbox"][2] * detection["bbox"][3] if kind == "bbox" else coco_mask.area(detection["segmentation"])
    return detection | {"area": float(area), "iscrowd": 0}


def _indexed(data: Records, annotations: Iterable[dict[str, Any]]) -> COCO:
    """Annotations as pycocotools wants them, numbered from 1: it takes 0 for no match."""
    content = COCO()
    content.dataset = {
        "images": [{"id": i, "width": r["width"], "height": r["height"]} for i, r in enumerate(data.records)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(data.classes)],
        "annotations": [annotation | {"id": number} for number, annotation in enumerate(annotations, 1)],
    }
    content.createIndex()
    return content
