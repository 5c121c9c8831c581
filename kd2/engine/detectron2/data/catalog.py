"""Data sets of ``DATASETS.CUSTOM`` in Detectron2's catalogs."""

from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm

from kd2.data.classes import same_order
from kd2.data.detection.records import Records, load, of_one_run, tell_without_masks
from kd2.data.root import data_root
from kd2.data.segmentation.labels import Labels
from kd2.data.segmentation.semantic import SemanticRecords, load_semantic
from kd2.data.segmentation.semantic import of_one_run as semantic_of_one_run
from kd2.distill import IGNORE_LABEL, ConfigError, nearest
from kd2.engine.detectron2.packages import provide_reader

# Name -> what this process registered it from, and what it read there.
_registered: dict[str, tuple[tuple, Records | SemanticRecords]] = {}


def register(cfg: CfgNode, names: Iterable[str]) -> None:
    """Check ``names``; read those of ``DATASETS.CUSTOM`` and put them into the catalogs. Safe to repeat.

    Raises:
        ConfigError: an unknown name, a custom name that Detectron2 itself uses, a missing package.
        DataError: see ``kd2.data.detection.records`` and ``kd2.data.segmentation.semantic``.
    """
    for name in names:
        if name in cfg.DATASETS.CUSTOM:
            _register_custom(cfg, name)
        elif name not in DatasetCatalog:
            choices = [*cfg.DATASETS.CUSTOM, *DatasetCatalog.list()]
            raise ConfigError(f"DATASETS: {name!r} is not in DATASETS.CUSTOM or built in; {nearest(name, choices)}")
        else:
            provide_reader(MetadataCatalog.get(name).get("evaluator_type", ""), f"DATASETS: {name!r}")


def align(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Give registered data sets of boxes one list of classes; returns it, empty where none of them has boxes.

    Args:
        classes: those of the run, as far as they are known.

    Raises:
        ConfigError: one of Detectron2's own data sets has other classes.
        DataError: see ``kd2.data.detection.records.of_one_run``.
    """
    own = custom_records(names)
    others = {name: MetadataCatalog.get(name).get("thing_classes") for name in names if name not in _registered}
    others = {name: found for name, found in others.items() if found}
    if not classes and others:
        classes = max(others.values(), key=len)
    if own:
        aligned = of_one_run(own, classes)
        classes = aligned[0].classes
        for data in aligned:
            if MetadataCatalog.get(data.name).thing_classes != list(classes):
                _put(data)
    for name, found in others.items():
        shared = min(len(found), len(classes))  # of panoptic data sets the names of stuff follow
        same_order(found[:shared], classes[:shared], name, "the run")
    return list(classes)


def align_semantic(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Give registered data sets of pixel classes one list of classes; returns it, empty where there is no such set.

    Args:
        classes: those of the run, as far as they are known.

    Raises:
        DataError: see ``kd2.data.segmentation.semantic.of_one_run``.
    """
    found = (_registered[name][1] for name in names if name in _registered)
    own = [data for data in found if isinstance(data, SemanticRecords) and data.classes]
    if own and not classes:  # beside one of Detectron2's own, that one's
        classes = next((c for name in names if name not in _registered for c in [_stuff(name)] if c), ())
    aligned = semantic_of_one_run(own, classes)
    for data in aligned:
        if _stuff(data.name) != list(data.classes):
            _put(data)
    return list(aligned[0].classes) if aligned else []


def _stuff(name: str) -> list[str]:
    return list(MetadataCatalog.get(name).get("stuff_classes", ()))


def custom_records(names: Iterable[str]) -> list[Records]:
    """Those of ``names`` that are registered data sets of boxes of ``DATASETS.CUSTOM``, as they were read."""
    found = (_registered[name][1] for name in names if name in _registered)
    return [data for data in found if isinstance(data, Records)]


def is_semantic(name: str, custom: CfgNode) -> bool:
    """Whether ``name`` is a data set of ``DATASETS.CUSTOM`` with a class a pixel, or without labels."""
    entry = custom.get(name)
    return isinstance(entry, Mapping) and not {"JSON", "VOC"} & set(entry)


def read_custom(cfg: CfgNode, name: str) -> Records | SemanticRecords:
    """The data set ``name`` of ``DATASETS.CUSTOM``; see ``register`` for what it raises."""
    if name in DatasetCatalog and name not in _registered:
        raise ConfigError(f"DATASETS.CUSTOM.{name}: Detectron2 has a data set of that name; choose another")
    custom = cfg.DATASETS.CUSTOM
    read = load_semantic if is_semantic(name, custom) else load
    return read(name, custom, pixel_range=cfg.INPUT.PIXEL_RANGE)


def _register_custom(cfg: CfgNode, name: str) -> None:
    source = (data_root(), str(cfg.DATASETS.CUSTOM[name]), str(cfg.INPUT.PIXEL_RANGE))
    if name in _registered and _registered[name][0] == source:
        return
    data = read_custom(cfg, name)
    if comm.is_main_process():
        if isinstance(data, Records) and cfg.MODEL.MASK_ON:
            tell_without_masks(data)
        data.findings.tell()
    _registered[name] = source, data
    _put(data)


def put_pictures(data: Records) -> None:
    """Put the pictures of a data set without annotations and classes into the catalogs."""
    _put(SemanticRecords(data.name, (), data.records, data.source, Labels({}), data.findings, (), data.pixel_range))


def _put(data: Records | SemanticRecords) -> None:
    """Put a data set into the catalogs in place of what has its name there."""
    if data.name in DatasetCatalog:
        DatasetCatalog.remove(data.name)
        MetadataCatalog.remove(data.name)
    if isinstance(data, Records):
        _add_detection(data)
    else:
        _add_semantic(data)


def _add_semantic(data: SemanticRecords) -> None:
    # An empty list would mean an image without objects, which Detectron2 leaves out.
    records = [{key: value for key, value in record.items() if key != "annotations"} for record in data.records]
    DatasetCatalog.register(data.name, lambda: records)
    MetadataCatalog.get(data.name).set(
        evaluator_type="sem_seg", ignore_label=IGNORE_LABEL, stuff_classes=list(data.classes), labels=data.labels
    )
    if data.colors:
        MetadataCatalog.get(data.name).set(stuff_colors=[list(color) for color in data.colors])


def _add_detection(data: Records) -> None:
    for record in data.records:
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
    DatasetCatalog.register(data.name, lambda: data.records)
    MetadataCatalog.get(data.name).set(thing_classes=list(data.classes), evaluator_type="records", records=data)
