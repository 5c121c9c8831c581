"""A record to the image and labels that a segmentation network sees."""

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from kd2.data.segmentation.semantic import SemanticRecords
from kd2.engine.lightning.images import augmentation, check_resized, record_image

Sample = tuple[Tensor, Tensor, dict]


class SemanticMapper:
    """A record to (image uint8 (3, h, w), labels uint8 (h, w), record).

    Training augments both; the batch pads images that are smaller than a crop. Otherwise the image is resized and the
    labels are left as they are.

    Args:
        data: the data sets that records come from; they know how their labels are read.
    """

    def __init__(self, cfg: CfgNode, data: list[SemanticRecords], training: bool):
        self.bgr, self.training = cfg.INPUT.FORMAT == "BGR", training
        self.pixel_range = cfg.INPUT.PIXEL_RANGE
        self.labels = {d.name: d.labels for d in data}
        self.augment = augmentation(cfg) if training else v2.Identity()
        self.test_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    def __call__(self, record: dict) -> Sample:
        image = record_image(record, self.pixel_range)
        labels = tv_tensors.Mask(torch.from_numpy(self.labels[record["dataset"]].of(record)))
        if self.training:
            image, labels = self.augment(image, labels)
        else:
            image = _resized(image, *self.test_size)
        pixels = image.as_subclass(Tensor)
        return pixels.flip(0) if self.bgr else pixels, labels.as_subclass(Tensor), record


def _resized(image: Tensor, shortest: int, longest: int) -> Tensor:
    """The shorter side ``shortest``, the other at most ``longest``; unchanged when ``shortest`` is 0."""
    if not shortest:
        return image
    size = image.shape[-2:]
    factor = min(shortest / min(size), longest / max(size))
    new = [round(side * factor) for side in size]
    check_resized(size, new)
    return v2.functional.resize(image, new, antialias=True)
