"""The evaluator of a torchvision detector."""

from torch import Tensor

from kd2.data.detection.records import Records
from kd2.engine.coco import detections, score, score_names
from kd2.engine.gather import gathered
from kd2.engine.lightning.detection.data import Batch

# For each image boxes, scores, labels from 0 and, of instances, masks, as torchvision's detectors give them.
Detections = list[dict[str, Tensor]]


class CocoEvaluator:
    """Collects detections of the student over a test set and scores them against its records.

    Every rank sees its share; ``evaluate`` gathers them. Metrics are named as in Detectron2 (``bbox/AP``, in percent).

    Args:
        masks: whether the student finds masks too.
        limit: see ``kd2.engine.coco.score``.
    """

    def __init__(self, data: Records, masks: bool, limit: int):
        self.data, self.limit = data, limit
        self.kinds = ("bbox", "segm") if masks else ("bbox",)
        self.detections: list[dict] = []
        self._places = {record["image_id"]: place for place, record in enumerate(data.records)}

    def process(self, inputs: Batch, outputs: Detections) -> None:
        """Take in what a student found on images in their original size."""
        for output, record in zip(outputs, inputs.records, strict=True):
            boxes, scores, labels = (output[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
            masks = (output["masks"][:, 0] > 0.5).cpu().numpy() if "segm" in self.kinds else None
            self.detections += detections(self._places[record["image_id"]], boxes, scores, labels, masks)

    def names(self) -> list[str]:
        """Those of the scores."""
        return [f"{kind}/{name}" for kind, names in score_names(self.data, self.kinds).items() for name in names]

    def evaluate(self) -> dict[str, float]:
        """``{"bbox/AP": ..., "segm/AP": ...}`` on every rank's whole data set; nan and 0 as in ``kd2.engine.coco``."""
        found = [d for share in gathered(self.detections) for d in share]
        scores = score(self.data, found, self.kinds, self.limit)
        return {f"{kind}/{name}": value for kind, named in scores.items() for name, value in named.items()}
