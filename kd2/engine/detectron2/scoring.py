"""Detectron2's evaluators under one rule: a class without ground truth is nan, one of which nothing is found is 0."""

import functools
import math
from collections import defaultdict
from typing import Any
from xml.etree import ElementTree

import torch
from detectron2 import evaluation
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, pascal_voc_evaluation
from detectron2.structures import Boxes, Instances

from kd2.data.segmentation.labels import MOST_CLASSES, tell_absent
from kd2.data.segmentation.layouts import contiguous
from kd2.distill import IGNORE_LABEL

Results = dict[str, Any]


class _FindsNothing(DatasetEvaluator):
    """Lets an evaluator by COCO's formats score a model that found nothing.

    Such an evaluator gives up without any detection. A detection of no area and score 0 changes no score and lets it
    tell 0 from nan.
    """

    def reset(self) -> None:
        super().reset()
        self._first: tuple[dict, Instances] | None = None
        self._found = False

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        super().process(inputs, outputs)
        for given, output in zip(inputs, outputs):
            if "instances" in output:
                self._first = self._first or (given, output["instances"])
                self._found = self._found or len(output["instances"]) > 0

    def evaluate(self) -> Results | None:
        """As Detectron2's, nan in place of -1 and its multiples."""
        if self._do_evaluation and self._first and not self._found:
            given, instances = self._first
            super().process([given], [{"instances": _nothing(instances)}])
        results = super().evaluate()
        return results and {
            task: {name: math.nan if x < 0 else x for name, x in scores.items()} for task, scores in results.items()
        }


class _CocoEvaluator(_FindsNothing, evaluation.COCOEvaluator):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        ids, names = (self._metadata.get(f"thing_{key}") for key in ("dataset_id_to_contiguous_id", "classes"))
        if ids and names and len(names) > len(ids):  # panoptic: the names of the things, then all others
            self._metadata = Metadata(thing_dataset_id_to_contiguous_id=ids, thing_classes=names[: len(ids)])


class _LvisEvaluator(_FindsNothing, evaluation.LVISEvaluator):
    pass


def coco_evaluator(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    """COCO's metrics over ``TEST.DETECTIONS_PER_IMAGE`` objects an image; keypoints over COCO's 20."""
    return _CocoEvaluator(
        name,
        output_dir=folder,
        allow_cached_coco=False,
        max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


def lvis_evaluator(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    """LVIS's metrics over ``TEST.DETECTIONS_PER_IMAGE`` objects an image."""
    return _LvisEvaluator(name, output_dir=folder, max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE)


def _nothing(like: Instances) -> Instances:
    """One instance with the fields of ``like``, without area and with score 0."""
    one = Instances(like.image_size, pred_boxes=Boxes(torch.zeros(1, 4)), scores=torch.zeros(1))
    one.pred_classes = torch.zeros(1, dtype=torch.int64)
    if like.has("pred_masks"):
        one.pred_masks = torch.zeros(1, *like.image_size, dtype=torch.bool)
    if like.has("pred_keypoints"):
        one.pred_keypoints = torch.zeros(1, *like.pred_keypoints.shape[1:])
    return one


class SemSegEvaluator(evaluation.SemSegEvaluator):
    """Detectron2's, with labels that are checked while reading and a word about classes that never occur.

    Raises (in ``process``):
        DataError: a label file with a value that is no class; names both.
    """

    def __init__(self, name: str, folder: str):
        metadata = MetadataCatalog.get(name)
        labels, count, reading = metadata.get("labels"), len(metadata.stuff_classes), {}
        if labels is None and metadata.ignore_label == IGNORE_LABEL and count <= MOST_CLASSES:
            labels = contiguous(count, [IGNORE_LABEL])
        if labels is not None:
            reading["sem_seg_loading_fn"] = lambda path, dtype: labels.read(path).astype(dtype)
        super().__init__(name, output_dir=folder, **reading)

    def evaluate(self) -> Results | None:
        """As Detectron2's."""
        results = super().evaluate()
        if results:
            scores = results["sem_seg"]
            absent = [name for name in self._class_names if math.isnan(scores[f"IoU-{name}"])]
            tell_absent(absent, "mIoU")
            scores |= {key: math.nan for name in absent if (key := f"BoundaryIoU-{name}") in scores}
            if len(absent) == len(self._class_names):
                scores["fwIoU"] = math.nan
        return results


class VocEvaluator(evaluation.PascalVOCDetectionEvaluator):
    """Detectron2's, over the classes that occur; reads annotations with fractions and without optional fields."""

    def evaluate(self) -> Results | None:
        """Nested AP, AP50 and AP75 of ``bbox`` in percent; nan without any object."""
        pascal_voc_evaluation.parse_rec = functools.cache(_voc_objects)
        with open(self._image_set_path) as file:
            paths = [self._anno_file_template.format(line.strip()) for line in file if line.strip()]
        objects = (entry for path in paths for entry in pascal_voc_evaluation.parse_rec(path))
        known = {entry["name"] for entry in objects if not entry["difficult"]}
        present = [number for number, name in enumerate(self._class_names) if name in known]
        if not present:
            return {"bbox": dict.fromkeys(("AP", "AP50", "AP75"), math.nan)}
        found, names = self._predictions, self._class_names
        try:
            self._class_names = [names[number] for number in present]
            self._predictions = defaultdict(list, {new: found[old] for new, old in enumerate(present) if old in found})
            return super().evaluate()
        finally:
            self._class_names = names


def _voc_objects(path: str) -> list[dict[str, Any]]:
    """Name, ``difficult`` and ``bbox`` (x1, y1, x2, y2 from 1, inclusive) of the objects of an annotation file."""
    objects = []
    for entry in ElementTree.parse(path).getroot().findall("object"):
        corners = [float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        difficult = int(entry.findtext("difficult") or 0)
        objects.append({"name": entry.findtext("name"), "difficult": difficult, "bbox": corners})
    return objects
