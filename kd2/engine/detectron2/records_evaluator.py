"""The evaluator of data sets of ``DATASETS.CUSTOM`` with boxes."""

import json
import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from kd2.data.detection.records import Records
from kd2.engine.coco import detections, score, score_names
from kd2.runs.files import write_atomically

_RESULTS = "coco_instances_results.json"


def detections_of(instances: Instances, place: int, masks: bool) -> list[dict]:
    """Detectron2's instances of the image at ``place``, in its original size, as ``kd2.engine.coco`` has them."""
    instances = instances.to("cpu")
    columns = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
    boxes, scores, classes = (x.numpy() for x in columns)
    return detections(place, boxes, scores, classes, instances.pred_masks.numpy() if masks else None)


class RecordsEvaluator(DatasetEvaluator):
    """Scores boxes, with ``MODEL.MASK_ON`` masks too, against the records that training reads.

    Args:
        folder: receives ``coco_instances_results.json``: all detections in COCO's result format.
    """

    def __init__(self, cfg: CfgNode, name: str, folder: str):
        self.data: Records = MetadataCatalog.get(name).records
        self.kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        self.limit, self.folder = cfg.TEST.DETECTIONS_PER_IMAGE, folder
        self._places = {record["image_id"]: place for place, record in enumerate(self.data.records)}
        self._found: list[dict] = []

    def reset(self) -> None:
        self._found = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take in Detectron2's instances of images in their original size."""
        for given, output in zip(inputs, outputs, strict=True):
            place = self._places[given["image_id"]]
            self._found += detections_of(output["instances"], place, "segm" in self.kinds)

    def names(self) -> dict[str, list[str]]:
        """Those of the scores by kind."""
        return score_names(self.data, self.kinds)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """See ``kd2.engine.coco.score``; None on all processes but the first."""
        shares = comm.gather(self._found)
        if not comm.is_main_process():
            return None
        found = [detection for share in shares for detection in share]
        os.makedirs(self.folder, exist_ok=True)
        write_atomically(json.dumps([self._told(d) for d in found]), os.path.join(self.folder, _RESULTS))
        return score(self.data, found, self.kinds, self.limit)

    def _told(self, detection: dict) -> dict:
        """A detection with the numbers of the data set's own file where it has any, otherwise from 1."""
        name = self.data.classes[detection["category_id"]]
        told = detection | {
            "image_id": self.data.records[detection["image_id"]]["image_id"],
            "category_id": self.data.category_ids.get(name, detection["category_id"] + 1),
        }
        if "segmentation" in told:
            told["segmentation"] = told["segmentation"] | {"counts": told["segmentation"]["counts"].decode()}
        return told
