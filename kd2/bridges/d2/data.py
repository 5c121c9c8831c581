"""Data sets of ``DATASETS.CUSTOM`` in Detectron2's catalogs, and the stream of training batches."""

import functools
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog, DatasetFromList, DatasetMapper, MetadataCatalog, build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler
from detectron2.structures import BoxMode
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler

from kd2.core import ConfigError, DataError, nearest
from kd2.data.records import Records, load
from kd2.data.root import data_root
from kd2.data.stream import Batches, Keyed, aspect, mapped
from kd2.data.stream import train_loader as keyed_loader

# Name -> what this process registered it from.
_registered: dict[str, tuple] = {}


def register(cfg: CfgNode, names: Iterable[str]) -> None:
    """Check ``names``; read those of ``DATASETS.CUSTOM`` and put them into the catalogs. Safe to repeat.

    Raises:
        ConfigError: an unknown name, or a custom name that Detectron2 itself uses.
        DataError: see ``kd2.data.records``.
    """
    for name in names:
        if name in cfg.DATASETS.CUSTOM:
            _register_custom(name, cfg.DATASETS.CUSTOM)
        elif name not in DatasetCatalog:
            choices = [*cfg.DATASETS.CUSTOM, *DatasetCatalog.list()]
            raise ConfigError(f"DATASETS: {name!r} is not in DATASETS.CUSTOM or built in; {nearest(name, choices)}")


def train_loader(cfg: CfgNode, start: int = 0) -> DataLoader:
    """An endless loader of Detectron2 batches, lists of mapped dicts, for this process.

    Every draw (order, augmentation) depends on ``SEED`` and the sample's place in the stream alone.

    Args:
        start: batches to leave out; also ``loader.batch_sampler.start`` until the first batch is drawn.

    Raises:
        ConfigError: an unknown sampler or data set; a batch size that the processes cannot share.
        DataError: an empty or unreadable data set.
    """
    if cfg.SEED < 0:
        raise ConfigError(f"SEED is {cfg.SEED}, the stream of batches needs the seed that was drawn for the run")
    ranks = comm.get_world_size()
    register(cfg, cfg.DATASETS.TRAIN)
    images = cfg.SOLVER.IMS_PER_BATCH
    if images % ranks or images <= 0:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH is {images}, {ranks} processes need a multiple of {ranks}")
    sets = {name: _records(cfg, name, index) for index, name in enumerate(cfg.DATASETS.TRAIN)}
    if not sets:
        raise ConfigError("DATASETS.TRAIN is empty, training needs a data set")
    records = [record for part in sets.values() for record in part]
    wide = [aspect(record) for record in records] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    batches = Batches(
        # The order before Detectron2 deals it out to the processes: ``Batches`` does that.
        _sampler(cfg, sets)._infinite_indices,
        images // ranks,
        start,
        wide.__getitem__ if wide else None,
        comm.get_rank(),
        ranks,
    )
    dataset = Keyed(DatasetFromList(records, copy=False), DatasetMapper(cfg, True), cfg.SEED)
    return keyed_loader(dataset, batches, cfg.DATALOADER.NUM_WORKERS)


def eval_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Detectron2's test loader of a data set; an image that cannot be read is named."""
    register(cfg, [name])
    return build_detection_test_loader(cfg, name, mapper=functools.partial(mapped, DatasetMapper(cfg, False)))


def _register_custom(name: str, custom: CfgNode) -> None:
    source = (data_root(), str(custom[name]))
    if _registered.get(name) == source:
        return
    if name in DatasetCatalog and name not in _registered:
        raise ConfigError(f"DATASETS.CUSTOM.{name}: Detectron2 has a data set of that name; choose another")
    data = load(name, custom)
    if name in _registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    _add(data)
    _registered[name] = source


def _add(data: Records) -> None:
    for record in data.records:
        for annotation in record["annotations"]:
            annotation["bbox_mode"] = BoxMode.XYWH_ABS
    DatasetCatalog.register(data.name, lambda: data.records)
    metadata = MetadataCatalog.get(data.name).set(thing_classes=list(data.classes), evaluator_type="coco")
    if data.category_ids:  # a COCO file; of others the evaluator makes one from the catalog
        contiguous = {category: index for index, category in enumerate(data.category_ids)}
        metadata.set(json_file=data.source, thing_dataset_id_to_contiguous_id=contiguous)


def _records(cfg: CfgNode, name: str, index: int) -> list[dict]:
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    proposals = [cfg.DATASETS.PROPOSAL_FILES_TRAIN[index]] if cfg.MODEL.LOAD_PROPOSALS else None
    try:
        return get_detection_dataset_dicts(name, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, keypoints, proposals)
    except (AssertionError, OSError) as error:
        raise DataError(f"data set {name!r} cannot be used: {error}; the data root is {data_root()!r}") from None


def _sampler(cfg: CfgNode, sets: dict[str, list[dict]]) -> Sampler:
    """The sampler of ``DATALOADER.SAMPLER_TRAIN``, seeded with ``SEED``."""
    count = sum(map(len, sets.values()))
    samplers = {
        "TrainingSampler": lambda: TrainingSampler(count, seed=cfg.SEED),
        "RandomSubsetTrainingSampler": lambda: RandomSubsetTrainingSampler(
            count, cfg.DATALOADER.RANDOM_SUBSET_RATIO, seed_shuffle=cfg.SEED, seed_subset=cfg.SEED
        ),
        "RepeatFactorTrainingSampler": lambda: RepeatFactorTrainingSampler(
            _category_factors(cfg, [record for part in sets.values() for record in part]), seed=cfg.SEED
        ),
        "WeightedTrainingSampler": lambda: RepeatFactorTrainingSampler(_set_factors(cfg, sets), seed=cfg.SEED),
        "WeightedCategoryTrainingSampler": lambda: RepeatFactorTrainingSampler(
            _both_factors(cfg, sets), seed=cfg.SEED
        ),
    }
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in samplers:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; {nearest(name, samplers)}")
    return samplers[name]()


def _category_factors(cfg: CfgNode, records: list[dict]) -> torch.Tensor:
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    return factors(records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT)


def _set_factors(cfg: CfgNode, sets: dict[str, list[dict]]) -> torch.Tensor:
    factors = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    for name in factors.keys() - sets.keys():
        raise ConfigError(f"DATASETS.TRAIN_REPEAT_FACTOR names {name!r}; {nearest(name, sets)}")
    return torch.cat([torch.full((len(part),), float(factors.get(name, 1))) for name, part in sets.items()])


def _both_factors(cfg: CfgNode, sets: dict[str, list[dict]]) -> torch.Tensor:
    factors = torch.cat([_category_factors(cfg, part) for part in sets.values()]) * _set_factors(cfg, sets)
    return factors / factors.min()
