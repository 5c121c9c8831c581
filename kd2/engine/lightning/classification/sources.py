"""The data sets of ``DATASETS``, and whether they fit a model."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from fvcore.common.config import CfgNode
from torchvision import datasets

from kd2.data.classification.image_dataset import ImageDataset, checked, read_folder, read_zip
from kd2.data.classification.tables import read_npz, read_parquet
from kd2.data.root import data_root, existing
from kd2.distill import ConfigError, DataError, nearest

_READERS = {"FOLDER": read_folder, "ZIP": read_zip, "NPZ": read_npz, "PARQUET": read_parquet}


def load_all(cfg: CfgNode, split: str) -> list[ImageDataset]:
    """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST``; tells what was found in them.

    Raises:
        ConfigError: no data set is named, or one that ``DATASETS.CUSTOM`` does not have.
        DataError: a file cannot be used, see ``kd2.data.classification.image_dataset``.
    """
    names, custom = cfg.DATASETS[split], cfg.DATASETS.CUSTOM
    if not names:
        raise ConfigError(f"DATASETS.{split} is empty, expected names of DATASETS.CUSTOM")
    for name in names:
        if name not in custom:
            raise ConfigError(f"DATASETS.{split}: no data set {name!r} in DATASETS.CUSTOM; {nearest(name, custom)}")
    data = [replace(_load(name, custom[name]), pixel_range=cfg.INPUT.PIXEL_RANGE) for name in names]
    for d in data:
        d.findings.tell()
    return data


def _load(name: str, entry: Mapping[str, str]) -> ImageDataset:
    kinds = [kind for kind in _READERS if isinstance(entry, Mapping) and set(entry) == {kind}]
    if kinds:
        return _READERS[kinds[0]](name, existing(name, entry, kinds[0]))
    if isinstance(entry, Mapping) and {"TORCHVISION", "ROOT"} <= set(entry) <= {"TORCHVISION", "ROOT", "SPLIT"}:
        return _torchvision(name, **{key.lower(): value for key, value in entry.items()})
    raise ConfigError(
        f"DATASETS.CUSTOM.{name} is {dict(entry) if isinstance(entry, Mapping) else entry!r}, expected one of "
        f"{', '.join(_READERS)}, or TORCHVISION, ROOT and SPLIT"
    )


def _torchvision(name: str, torchvision: str, root: str, split: str = "train") -> ImageDataset:
    """A data set class of torchvision whose items are (image, class); nothing is downloaded."""
    key, kind = f"DATASETS.CUSTOM.{name}", _class_of(torchvision)
    if kind is None:
        known = [n for n in dir(datasets) if _class_of(n)]
        raise ConfigError(f"{key}.TORCHVISION: torchvision has no {torchvision!r}; {nearest(torchvision, known)}")
    takes = inspect.signature(kind).parameters
    options = {"train": split == "train"} if "train" in takes else {"split": split} if "split" in takes else {}
    path = os.path.join(data_root(), root)
    try:
        data = kind(path, **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"data set {name!r}: torchvision cannot read {torchvision} in {path}: {error}") from None
    labels = _labels(data)
    classes = tuple(map(str, getattr(data, "classes", range(int(labels.max()) + 1))))
    names = [f"item {i}" for i in range(len(labels))]
    return checked(ImageDataset(name, classes, labels, names, lambda i: data[i][0], path))


def _class_of(name: str) -> type | None:
    found = getattr(datasets, name, None)
    return found if inspect.isclass(found) and issubclass(found, datasets.VisionDataset) else None


def _labels(data: datasets.VisionDataset) -> np.ndarray:
    for attribute in ("targets", "_labels", "labels"):
        if hasattr(data, attribute):
            return np.asarray(getattr(data, attribute), dtype=np.int64)
    return np.array([data[i][1] for i in range(len(data))], dtype=np.int64)


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
