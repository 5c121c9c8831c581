"""Images with a class a pixel: Detectron2's augmentations on the labels of ``kd2.data.segmentation.semantic``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, detection_utils
from detectron2.data import transforms as T

from kd2.data.segmentation.labels import Labels
from kd2.distill import IGNORE_LABEL, ConfigError
from kd2.engine.detectron2.data.augmentation import gray_of, with_jitter
from kd2.engine.detectron2.data.detection import record_pixels


class PadTo(T.Augmentation):
    """Pad on the right and at the bottom to at least ``size`` (H, W); labels with ``IGNORE_LABEL``."""

    def __init__(self, size: tuple[int, int], value: float):
        super().__init__()
        self.size, self.value = size, value

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        missing = [max(wanted - found, 0) for wanted, found in zip(self.size, (height, width))]
        return T.PadTransform(0, 0, missing[1], missing[0], width, height, self.value, IGNORE_LABEL)


class SemanticMapper:
    """From a record of a data set of pixel classes to a sample: ``image`` (C, H, W) uint8, ``sem_seg`` (H, W) int64.

    In training the image is resized, cropped after that (padded where it is smaller), and flipped; an image without
    labels has ``IGNORE_LABEL`` everywhere. For evaluation it is resized alone and has no ``sem_seg``.

    Args:
        augmentations: of Detectron2, drawn from NumPy's global generator.
        image_format, pixel_range: see ``INPUT.FORMAT`` and ``INPUT.PIXEL_RANGE``.
        labels: data set -> the reader of its label files; None for evaluation.
    """

    def __init__(
        self,
        augmentations: list[T.Augmentation],
        image_format: str,
        pixel_range: Sequence[float],
        labels: Mapping[str, Labels] | None,
    ):
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format, self.pixel_range, self.labels = image_format, pixel_range, labels

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Raises DataError when the image or the labels do not agree with the record."""
        image = record_pixels(record, self.image_format, self.pixel_range)
        labels = self.labels[record["dataset"]].of(record) if self.labels else None
        seen = T.AugInput(image, sem_seg=labels)
        self.augmentations(seen)
        sample = {**record, "image": torch.from_numpy(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))}
        if seen.sem_seg is not None:
            sample["sem_seg"] = torch.from_numpy(seen.sem_seg.astype(np.int64))
        return sample


def training_mapper(cfg: CfgNode, names: list[str]) -> SemanticMapper:
    """The mapper of the data sets ``names`` by the keys of ``INPUT``.

    Raises:
        ConfigError: a crop that is none; an ignored value that is not 255.
    """
    ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if ignored != IGNORE_LABEL:
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {ignored}, the labels of DATASETS.CUSTOM mark ignored pixels with "
            f"{IGNORE_LABEL}"
        )
    resize, *flip = detection_utils.build_augmentation(cfg, is_train=True)
    augmentations = with_jitter(cfg, [resize, *_crop(cfg), *flip], pad=True)
    labels = {name: MetadataCatalog.get(name).labels for name in names}
    return SemanticMapper(augmentations, cfg.INPUT.FORMAT, cfg.INPUT.PIXEL_RANGE, labels)


def evaluation_mapper(cfg: CfgNode) -> SemanticMapper:
    """The mapper for evaluation: ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, 0 for the image as it is."""
    resize = detection_utils.build_augmentation(cfg, is_train=False)
    return SemanticMapper(resize, cfg.INPUT.FORMAT, cfg.INPUT.PIXEL_RANGE, None)


def _crop(cfg: CfgNode) -> list[T.Augmentation]:
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return []
    if crop.TYPE != "absolute":
        return [T.RandomCrop(crop.TYPE, crop.SIZE)]
    if len(crop.SIZE) != 2 or not all(isinstance(side, int) and side > 0 for side in crop.SIZE):
        raise ConfigError(f"INPUT.CROP.SIZE is {list(crop.SIZE)}, expected height and width in pixels")
    return [PadTo(crop.SIZE, gray_of(cfg)), T.RandomCrop("absolute", crop.SIZE)]
