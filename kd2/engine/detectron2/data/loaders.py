"""The stream of training batches, and the loaders for evaluation."""

import functools
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader

from kd2.data.records import without_labels
from kd2.data.root import data_root
from kd2.data.stream import Batches, Joined, Keyed, aspect, mapped, unlabeled_share
from kd2.data.stream import train_loader as keyed_loader
from kd2.distill import ConfigError, DataError
from kd2.engine.detectron2.compat import endless_order
from kd2.engine.detectron2.data.catalog import is_semantic, register
from kd2.engine.detectron2.data.detection import picture_mapper
from kd2.engine.detectron2.data.proposals import plain_proposals
from kd2.engine.detectron2.data.samplers import build_sampler
from kd2.engine.detectron2.data.semantic import evaluation_mapper, training_mapper
from kd2.engine.detectron2.projects import panoptic_deeplab
from kd2.networks.pspnet import check_pooled


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
    unlabeled = cfg.KD.UNLABELED
    extra = unlabeled_share(unlabeled.DATASETS, unlabeled.IMS_PER_BATCH, ranks)
    register(cfg, (*cfg.DATASETS.TRAIN, *unlabeled.DATASETS))
    images = cfg.SOLVER.IMS_PER_BATCH
    if images % ranks or images <= 0:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH is {images}, {ranks} processes need a multiple of {ranks}")
    _check_norm(cfg, images // ranks + extra, ranks)
    sets = {name: training_records(cfg, name, index) for index, name in enumerate(cfg.DATASETS.TRAIN)}
    if not sets:
        raise ConfigError("DATASETS.TRAIN is empty, training needs a data set")
    records = [record for part in sets.values() for record in part]
    if not records:
        raise DataError(f"DATASETS.TRAIN: no image of {', '.join(sets)} has an annotation that is not crowd")
    count = len(records)
    records += _without_labels(cfg)
    sized = all("width" in record for record in records)  # Detectron2's panoptic ones are not
    wide = [aspect(record) for record in records] if sized and cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    batches = Batches(
        # The order before Detectron2 deals it out to the processes: ``Batches`` does that.
        endless_order(build_sampler(cfg, sets)),
        images // ranks,
        start,
        wide.__getitem__ if wide else None,
        comm.get_rank(),
        ranks,
    )
    if extra:
        batches = Joined(batches, count, len(records) - count, extra, cfg.SEED)
    dataset = Keyed(DatasetFromList(records, copy=False), train_mapper(cfg, records), cfg.SEED)
    return keyed_loader(dataset, batches, cfg.DATALOADER.NUM_WORKERS)


def eval_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Detectron2's test loader of a data set; an image that cannot be read is named."""
    register(cfg, [name])
    mapper = evaluation_mapper(cfg) if is_semantic(name, cfg.DATASETS.CUSTOM) else picture_mapper(cfg, False)
    with plain_proposals(cfg, "TEST") as local:
        return build_detection_test_loader(local, name, mapper=functools.partial(mapped, mapper))


def _check_norm(cfg: CfgNode, images: int, ranks: int) -> None:
    """Raises ConfigError when the batch norm of a PSPNet would see one image; a synchronized one sees all processes."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NAME == "PSPNetHead" and head.NORM.endswith("BN") and head.NORM != "FrozenBN":
        together = images * ranks if "Sync" in head.NORM else images
        check_pooled(head.NAME, together, cfg.SOLVER.IMS_PER_BATCH)


def _without_labels(cfg: CfgNode) -> list[dict]:
    """The images of ``KD.UNLABELED.DATASETS``; labels that such a data set has are left out."""
    found = [record for name in cfg.KD.UNLABELED.DATASETS for record in DatasetCatalog.get(name)]
    return without_labels(found)


def train_mapper(cfg: CfgNode, records: list[dict]) -> Callable[[dict], dict]:
    """What makes a training sample of a record of ``DATASETS.TRAIN``; ``records`` tell the form of their masks."""
    names = [*cfg.DATASETS.TRAIN, *cfg.KD.UNLABELED.DATASETS]
    if cfg.MODEL.META_ARCHITECTURE == "PanopticDeepLab":
        if not all("pan_seg_file_name" in record for record in records):
            raise ConfigError(f"DATASETS.TRAIN is {names}, PanopticDeepLab learns from panoptic data sets alone")
        return panoptic_deeplab().PanopticDeeplabDatasetMapper(cfg)
    others = [name for name in names if not is_semantic(name, cfg.DATASETS.CUSTOM)]
    if not others:
        return training_mapper(cfg, names)
    pixels = cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor" and cfg.KD.UNLABELED.DATASETS
    if pixels or others[: len(cfg.DATASETS.TRAIN)] != list(cfg.DATASETS.TRAIN):
        raise ConfigError(
            f"DATASETS.TRAIN and KD.UNLABELED.DATASETS are {names}, but {others[0]!r} is no data set of "
            "DATASETS.CUSTOM with classes of pixels or without labels; such data sets mix with their like only"
        )
    objects = (a for record in records for a in record.get("annotations", ()))
    codes = any(isinstance(a.get("segmentation"), dict) for a in objects if not a["iscrowd"])
    # Detectron2 makes no polygons of run-length codes.
    return picture_mapper(cfg, True, **({"instance_mask_format": "bitmask"} if cfg.MODEL.MASK_ON and codes else {}))


def check_readable(names: Iterable[str]) -> None:
    """Raises DataError when one of these registered data sets is not where Detectron2 looks for it."""
    for name in names:
        try:
            DatasetCatalog.get(name)
        except (AssertionError, OSError) as error:
            raise _unusable(name, error) from None


def _unusable(name: str, error: Exception) -> DataError:
    return DataError(f"data set {name!r} cannot be used: {error}; the data root is {data_root()!r}")


def training_records(cfg: CfgNode, name: str, index: int) -> list[dict]:
    """The records of the data set ``name``, the one in place ``index`` of ``DATASETS.TRAIN``, that are trained on.

    Raises:
        DataError: it cannot be read.
    """
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    with plain_proposals(cfg, "TRAIN") as local:
        proposals = [local.DATASETS.PROPOSAL_FILES_TRAIN[index]] if cfg.MODEL.LOAD_PROPOSALS else None
        try:
            records = get_detection_dataset_dicts(name, False, keypoints, proposals)
        except (AssertionError, OSError) as error:
            raise _unusable(name, error) from None
    if "annotations" not in records[0]:
        return records
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [r for r in records if not all(a.get("iscrowd") for a in r["annotations"])]
    return [_with_masks(record) for record in records] if cfg.MODEL.MASK_ON else records


def _with_masks(record: dict) -> dict:
    """A record without its objects that have no usable mask."""
    usable = [a for a in record["annotations"] if a.get("iscrowd") or "segmentation" in a]
    return record if len(usable) == len(record["annotations"]) else record | {"annotations": usable}
