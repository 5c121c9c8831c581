"""The data sets of ``DATASETS``, and whether they fit a model."""

from collections.abc import Mapping

from fvcore.common.config import CfgNode

from kd2.data.classification.image_dataset import ImageDataset, read_folder, read_npz, read_parquet, read_zip
from kd2.data.root import existing
from kd2.distill import ConfigError, nearest
from kd2.engine.lightning.classification.torchvision_sets import read_torchvision

_READERS = {"FOLDER": read_folder, "ZIP": read_zip, "NPZ": read_npz, "PARQUET": read_parquet}


def load_all(cfg: CfgNode, split: str) -> list[ImageDataset]:
    """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST``.

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
    return [_load(name, custom[name]) for name in names]


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
    """Raises ConfigError when data sets differ in their classes, or from ``MODEL.NUM_CLASSES`` and ``MODEL.CLASSES``.

    Training images whose labels play no part may have any classes.
    """
    judged = [d for d in data if cfg.KD.TASK_WEIGHT or d.name not in cfg.DATASETS.TRAIN]
    for found in judged:
        if len(found.classes) != cfg.MODEL.NUM_CLASSES:
            count, shown = len(found.classes), ", ".join(found.classes[:10])
            raise ConfigError(
                f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but {found.source} has {count} classes: {shown}"
            )
        same_order(judged[0].classes, found.classes, f"DATASETS: {judged[0].name}", found.name)
        same_order(tuple(cfg.MODEL.CLASSES), found.classes, "MODEL.CLASSES", found.source)


def same_order(a: tuple[str, ...], b: tuple[str, ...], of_a: str, of_b: str) -> None:
    """Raises ConfigError naming the first difference of two lists of classes. An empty list is unknown, and fits."""
    if not a or not b:
        return
    if len(a) != len(b):
        raise ConfigError(f"{of_a} has {len(a)} classes, {of_b} has {len(b)}")
    for number, (x, y) in enumerate(zip(a, b)):
        if x != y:
            raise ConfigError(f"{of_a} and {of_b} differ in class {number}: {x!r} and {y!r}; their order counts")


def labeled(cfg: CfgNode, data: ImageDataset) -> bool:
    """Whether the labels of training images are classes of the model."""
    known = tuple(cfg.MODEL.CLASSES)
    return data.classes == known if known else len(data.classes) == cfg.MODEL.NUM_CLASSES
