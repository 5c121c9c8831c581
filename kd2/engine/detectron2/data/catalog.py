"""Data sets of ``DATASETS.CUSTOM`` in Detectron2's catalogs."""

from collections.abc import Iterable, Mapping

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from kd2.data.detection.records import Records, load
from kd2.data.root import data_root
from kd2.data.segmentation.semantic import SemanticRecords, load_semantic
from kd2.distill import IGNORE_LABEL, ConfigError, nearest
from kd2.engine.detectron2.packages import provide_reader

# Name -> what this process registered it from.
_registered: dict[str, tuple] = {}


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


def is_semantic(name: str, custom: CfgNode) -> bool:
    """Whether ``name`` is a data set of ``DATASETS.CUSTOM`` with a class a pixel, or without labels."""
    entry = custom.get(name)
    return isinstance(entry, Mapping) and not {"JSON", "VOC"} & set(entry)


def read_custom(cfg: CfgNode, name: str) -> Records | SemanticRecords:
    """The data set ``name`` of ``DATASETS.CUSTOM``; see ``register`` for what it raises."""
    if name in DatasetCatalog and name not in _registered:
        raise ConfigError(f"DATASETS.CUSTOM.{name}: Detectron2 has a data set of that name; choose another")
    custom = cfg.DATASETS.CUSTOM
    return load_semantic(name, custom) if is_semantic(name, custom) else load(name, custom)


def _register_custom(cfg: CfgNode, name: str) -> None:
    source = (data_root(), str(cfg.DATASETS.CUSTOM[name]))
    if _registered.get(name) == source:
        return
    data = read_custom(cfg, name)
    if name in _registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    if isinstance(data, SemanticRecords):
        _add_semantic(data)
    else:
        _add_detection(data)
    _registered[name] = source


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
    metadata = MetadataCatalog.get(data.name).set(thing_classes=list(data.classes), evaluator_type="coco")
    if data.category_ids:  # a COCO file; of others the evaluator makes one from the catalog
        contiguous = {category: index for index, category in enumerate(data.category_ids)}
        metadata.set(json_file=data.source, thing_dataset_id_to_contiguous_id=contiguous)
