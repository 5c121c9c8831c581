"""The data sets of ``DATASETS``, and whether they fit a model."""

from collections.abc import Mapping
from dataclasses import replace

from fvcore.common.config import CfgNode

from kd2.data.classification.image_dataset import ImageDataset, read_folder, read_zip
from kd2.data.classification.tables import read_npz, read_parquet
from kd2.data.root import existing
from kd2.distill import ConfigError, nearest
from kd2.engine.lightning.classification.torchvision_sets import read_torchvision

_READERS = {"FOLDER": read_folder, "ZIP": read_zip, "NPZ": read_npz, "PARQUET": read_parquet}


def load_all(cfg: CfgNode, split: str) -> list[ImageDataset]:
    """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST``; tells what was found in them.

    Raises:
        ConfigError: no data set is named, or one that ``DATASETS.CUSTOM`` does not have.
        DataError: a file cannot be used, see ``kd2.data.classification.image_dataset``.
    """
    if not cfg.DATASETS[split]:
        raise ConfigError(f"DATASETS.{split} is empty, expected names of DATASETS.CUSTOM")
    data = [load_one(cfg, name, f"DATASETS.{split}") for name in cfg.DATASETS[split]]
    for d in data:
        d.findings.tell()
    return data


def load_one(cfg: CfgNode, name: str, key: str) -> ImageDataset:
    """The data set ``name``; ``key`` names it in errors."""
    custom = cfg.DATASETS.CUSTOM
    if name not in custom:
        raise ConfigError(f"{key}: no data set {name!r} in DATASETS.CUSTOM; {nearest(name, custom)}")
    return replace(_load(name, custom[name]), pixel_range=cfg.INPUT.PIXEL_RANGE)


def _load(name: str, entry: Mapping[str, str]) -> ImageDataset:
    kinds = [kind for kind in _READERS if isinstance(entry, Mapping) and set(entry) == {kind}]
    if kinds:
        return _READERS[kinds[0]](name, existing(name, entry, kinds[0]))
    if isinstance(entry, Mapping) and {"TORCHVISION", "ROOT"} <= set(entry) <= {"TORCHVISION", "ROOT", "SPLIT"}:
        return read_torchvision(name, **{key.lower(): value for key, value in entry.items()})
    raise ConfigError(
        f"DATASETS.CUSTOM.{name} is {dict(entry) if isinstance(entry, Mapping) else entry!r}, expected one of "
        f"{', '.join(_READERS)}, or TORCHVISION, ROOT and SPLIT"
    )


def check_classes(cfg: CfgNode, data: list[ImageDataset]) -> None:
    """Raises ConfigError when a data set has another number of classes than ``MODEL.NUM_CLASSES``.

    Training images whose labels play no part may have any classes.
    """
    judged = [d for d in data if cfg.KD.TASK_WEIGHT or d.name not in cfg.DATASETS.TRAIN]
    for found in judged:
        if len(found.classes) != cfg.MODEL.NUM_CLASSES:
            count, shown = len(found.classes), ", ".join(found.classes[:10])
            raise ConfigError(
                f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but {found.source} has {count} classes: {shown}"
            )


def labeled(cfg: CfgNode, data: ImageDataset) -> bool:
    """Whether the labels of training images are classes of the model."""
    known = tuple(cfg.MODEL.CLASSES)
    return data.classes == known if known else len(data.classes) == cfg.MODEL.NUM_CLASSES
