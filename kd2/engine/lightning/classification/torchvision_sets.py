"""Data sets that torchvision reads: a list of its classes whose items are (image, class), never downloaded."""

import inspect
import os
import pickle
from collections.abc import Iterator

import numpy as np
from torchvision import datasets

from kd2.data import plain_pickle
from kd2.data.classification.image_dataset import ImageDataset, checked
from kd2.data.root import data_root, inside
from kd2.distill import ConfigError, DataError, nearest

# Others unpickle what lies in the working folder, unpack archives, make folders, or have items of another kind.
ALLOWED = (
    "CIFAR10", "CIFAR100", "Country211", "DTD", "EuroSAT", "FGVCAircraft", "FashionMNIST", "Flowers102", "Food101",
    "GTSRB", "Imagenette", "KMNIST", "MNIST", "OxfordIIITPet", "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN",
    "StanfordCars", "USPS",
)  # fmt: skip


def read_torchvision(name: str, torchvision: str, root: str, split: str = "train") -> ImageDataset:
    """The data set of a class of torchvision in the folder ``root``, where it lies unpacked.

    Args:
        name: of the data set, for errors.
        torchvision: one of ``ALLOWED``.

    Raises:
        ConfigError: another class.
        DataError: files that are missing or broken, or an image that lies outside ``root``.
    """
    if torchvision not in ALLOWED:
        found = "torchvision has no" if not hasattr(datasets, torchvision) else "kd2 does not read torchvision's"
        raise ConfigError(
            f"DATASETS.CUSTOM.{name}.TORCHVISION: {found} {torchvision!r}; {nearest(torchvision, ALLOWED)}"
        )
    kind = getattr(datasets, torchvision)
    takes = inspect.signature(kind).parameters
    options = {"train": split == "train"} if "train" in takes else {"split": split} if "split" in takes else {}
    path = os.path.join(data_root(), root)
    try:
        with plain_pickle.in_place_of_pickle(datasets.cifar):
            data = kind(path, download=False, **options)
    except (RuntimeError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"data set {name!r}: torchvision cannot read {torchvision} in {path}: {error}") from None
    for file in _files(data):
        inside(os.path.abspath(path), os.path.abspath(file), f"data set {name!r}")
    labels = _labels(data)
    classes = tuple(map(str, getattr(data, "classes", range(int(labels.max()) + 1))))
    names = [f"item {i}" for i in range(len(labels))]
    return checked(ImageDataset(name, classes, labels, names, lambda i: data[i][0], path))


def _files(data: datasets.VisionDataset) -> Iterator[str]:
    """The files in the lists of a data set, (file, class) or file alone."""
    for found in vars(data).values():
        for entry in found if isinstance(found, list) else ():
            file = entry[0] if isinstance(entry, tuple) and entry else entry
            if isinstance(file, (str, os.PathLike)) and os.path.isfile(file):
                yield os.fspath(file)


def _labels(data: datasets.VisionDataset) -> np.ndarray:
    for attribute in ("targets", "_labels", "labels"):
        if hasattr(data, attribute):
            return np.asarray(getattr(data, attribute), dtype=np.int64)
    return np.array([data[i][1] for i in range(len(data))], dtype=np.int64)
