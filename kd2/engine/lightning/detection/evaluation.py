"""COCO average precision of a torchvision detector, by pycocotools."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from kd2.data.detection.records import Records
from kd2.engine.gather import gathered
from kd2.engine.lightning.detection.data import Batch

# For each image boxes, scores, labels from 0 and, of instances, masks, as torchvision's detectors give them.
Detections = list[dict[str, Tensor]]
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class CocoEvaluator:
    """Collects detections of the student over a test set and scores them against its records.

    Every rank sees its share; ``evaluate`` gathers them. Metrics are named as in Detectron2 (``bbox/AP``, in percent).
    """

    def __init__(self, data: Records):
        self.data = data
        self.detections: list[dict] = []

    def process(self, inputs: Batch, outputs: Detections) -> None:
        """Take in what a student found on images in their original size."""
        for output, record in zip(outputs, inputs.records, strict=True):
            self.detections += _detections(output, record["image_id"])

    def evaluate(self) -> dict[str, float]:
        """``{"bbox/AP": ..., "segm/AP": ...}`` on every rank's whole data set; nan where there is nothing to score."""
        return score(self.data, [d for share in gathered(self.detections) for d in share])


def score(data: Records, detections: list[dict]) -> dict[str, float]:
    """COCO metrics of detections in COCO's result format, in percent."""
    kinds = ["bbox"] + (["segm"] if any("segmentation" in d for d in detections) else [])
    metrics: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _ground_truth(data)
        found = truth.loadRes(detections) if detections else None
        for kind in kinds:
            evaluation = COCOeval(truth, found, kind)
            evaluation.params.imgIds = [record["image_id"] for record in data.records]
            if found is None:
                metrics |= {f"{kind}/{name}": 0.0 for name in _METRICS}
                continue
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            metrics |= {f"{kind}/{name}": 100 * float(x) for name, x in zip(_METRICS, evaluation.stats)}
            metrics |= {f"{kind}/AP-{name}": ap for name, ap in _per_class(evaluation, data.classes)}
    return {name: float("nan") if value < 0 else value for name, value in metrics.items()}


def _per_class(evaluation: COCOeval, classes: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    precision = evaluation.eval["precision"]  # (thresholds, recalls, classes, areas, detections an image)
    for index, name in enumerate(classes):
        known = precision[:, :, index, 0, -1]
        known = known[known > -1]
        yield name, 100 * float(np.mean(known)) if known.size else float("nan")


def _detections(output: dict[str, Tensor], image_id: int) -> list[dict]:
    boxes = output["boxes"].cpu()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    scores, labels = output["scores"].tolist(), output["labels"].tolist()
    found = [
        {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": value}
        for box, value, label in zip(boxes, scores, labels)
    ]
    if "masks" in output:
        for detection, mask in zip(found, (output["masks"][:, 0] > 0.5).cpu().numpy()):
            detection["segmentation"] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return found


def _ground_truth(data: Records) -> COCO:
    """The records as pycocotools wants them; category ids from 1 in the order of the classes."""
    truth = COCO()
    annotations = []
    for record in data.records:
        for a in record["annotations"]:
            annotations.append(
                a
                | {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": a["category_id"] + 1,
                    "area": _area(a, record),
                }
            )
    truth.dataset = {
        "info": {},
        "images": [{"id": r["image_id"], "width": r["width"], "height": r["height"]} for r in data.records],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(data.classes)],
        "annotations": annotations,
    }
    truth.createIndex()
    return truth


def _area(annotation: dict, record: dict) -> float:
    """Area in pixels: the file's own, otherwise of the mask, otherwise of the box."""
    if "area" in annotation:
        return annotation["area"]
    code = annotation.get("segmentation")
    if not code:
        return annotation["bbox"][2] * annotation["bbox"][3]
    if isinstance(code, list) or isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, record["height"], record["width"])
    return float(np.sum(coco_mask.area(code)))
