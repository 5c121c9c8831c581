"""Detectron2's mapper on pictures that ``kd2.data.images`` reads, as on every road."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from PIL import Image
from pycocotools import mask as coco_mask

from kd2.data.images import read_record_image
from kd2.engine.detectron2 import lazy
from kd2.engine.detectron2.data.augmentation import with_jitter


class PictureMapper(DatasetMapper):
    """``DatasetMapper`` but for the reading of pictures: one of the record's size, by ``INPUT.PIXEL_RANGE``."""

    @configurable
    def __init__(self, is_train: bool, *, pixel_range: Sequence[float], **options: Any):
        super().__init__(is_train, **options)
        self.pixel_range = pixel_range

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = {**super().from_config(cfg, is_train), "pixel_range": cfg.INPUT.PIXEL_RANGE}
        if is_train:
            options["augmentations"] = with_jitter(cfg, options["augmentations"], pad=False)
            if cfg.INPUT.SCALE_JITTER.ENABLED and cfg.MODEL.MASK_ON:
                options |= {"recompute_boxes": True, "instance_mask_format": "bitmask"}
        return options

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Raises DataError when the picture cannot be read or has another size."""
        sample = copy.deepcopy(record)
        pixels = record_pixels(sample, self.image_format, self.pixel_range)
        seen = T.AugInput(pixels, sem_seg=_labels(sample.pop("sem_seg_file_name", "")))
        transforms = self.augmentations(seen)
        size = seen.image.shape[:2]
        sample["image"] = torch.from_numpy(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
        if seen.sem_seg is not None:
            sample["sem_seg"] = torch.from_numpy(seen.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(sample, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            if self.recompute_boxes and self.instance_mask_format == "bitmask":
                _encode(sample)
            self._transform_annotations(sample, transforms, size)
        return sample


def picture_mapper(cfg: CfgNode, is_train: bool, **options: Any) -> PictureMapper:
    """The mapper of a config, or that of its LazyConfig file; ``options`` change arguments of Detectron2's mapper."""
    own = lazy.mapper_options(cfg, "train" if is_train else "test")
    if own is None:
        return PictureMapper(cfg, is_train, **options)
    return PictureMapper(is_train, pixel_range=cfg.INPUT.PIXEL_RANGE, **own | options)


def _encode(sample: dict[str, Any]) -> None:
    """Polygons as run-length codes, in place: to cut polygons Detectron2 needs one more package."""
    for annotation in sample["annotations"]:
        if isinstance(annotation.get("segmentation"), list):
            codes = coco_mask.frPyObjects(annotation["segmentation"], sample["height"], sample["width"])
            annotation["segmentation"] = coco_mask.merge(codes)


def record_pixels(record: dict[str, Any], image_format: str, pixel_range: Sequence[float]) -> np.ndarray:
    """The picture of a record, upright, (H, W, C) in ``INPUT.FORMAT``; raises DataError, see ``read_record_image``.

    A record without a size gets the picture's.
    """
    pixels = read_record_image(record, pixel_range)
    record.setdefault("height", pixels.shape[0])
    record.setdefault("width", pixels.shape[1])
    if image_format in ("RGB", "BGR"):
        return pixels if image_format == "RGB" else pixels[:, :, ::-1]
    return np.array(detection_utils.convert_PIL_to_numpy(Image.fromarray(pixels), image_format))


def _labels(path: str) -> np.ndarray | None:
    """Class indices (H, W) of a panoptic data set's label file, as Detectron2 reads them."""
    return detection_utils.read_image(path, "L").squeeze(2) if path else None
