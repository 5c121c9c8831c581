"""Detectron2's own data sets in the form of kd2's, to look at them."""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from kd2.data.detection.records import Records
from kd2.data.findings import Findings
from kd2.data.images import read_header
from kd2.data.segmentation.labels import Labels
from kd2.data.segmentation.layouts import contiguous
from kd2.data.segmentation.semantic import SemanticRecords
from kd2.engine.detectron2.data.loaders import check_readable


def read_built_in(name: str) -> Records | SemanticRecords:
    """What Detectron2 reads of a data set of its catalog: objects where it has any, otherwise a class a pixel.

    Raises:
        DataError: it is not where Detectron2 looks for it.
        OSError: a picture cannot be read.
    """
    check_readable([name])
    metadata, records = MetadataCatalog.get(name), [_sized(record) for record in DatasetCatalog.get(name)]
    if any("annotations" in record for record in records):
        classes = tuple(metadata.get("thing_classes", ()))
        return Records(name, classes, [_in_pixels(r) for r in records], name, findings=Findings(name))
    classes = tuple(metadata.get("stuff_classes", ()))
    labels = contiguous(len(classes), [metadata.ignore_label]) if classes else Labels({})
    return SemanticRecords(name, classes, records, name, labels, findings=Findings(name))


def _sized(record: dict[str, Any]) -> dict[str, Any]:
    if "height" in record:
        return record
    height, width = read_header(record["file_name"]).size
    return record | {"height": height, "width": width}


def _in_pixels(record: dict[str, Any]) -> dict[str, Any]:
    objects = [
        a | {"bbox": BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS), "iscrowd": a.get("iscrowd", 0)}
        for a in record.get("annotations", [])
    ]
    return record | {"annotations": objects}
